"""TensorRT on an NVIDIA GPU. Read targets, key, build, cache, fit, engine; then device, graph, rows, slots, bucket,
runtime: each knows only those before it. Nothing here imports TensorRT or pycuda before a runtime is opened.

None of it has run on a GPU yet. What has been done without one, in the tests: all of it runs on the stand-in of
`tests/fake_gpu`, whose calls are held against NVIDIA's bindings; `build` makes engines of the shipped graphs for SM 7.5
and 8.6 in TensorRT for RTX, which executes none; NVIDIA's assembler takes the PTX of `rows` for every target.
`tests/gpu` does the rest on a machine that has one.
"""
