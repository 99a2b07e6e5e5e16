"""TensorRT on an NVIDIA GPU. Read targets, key, build, cache, engine; then device, graph, rows, slots, bucket, runtime:
each knows only those before it. Nothing here imports TensorRT or pycuda before a runtime is opened.

Not one line of it has run on a GPU yet. Executed: everything, on the stand-in of `tests/fake_gpu`; `build`, by
TensorRT for RTX, which builds engines for SM 7.5 and 8.6 without a GPU; the PTX of `rows`, by NVIDIA's assembler, for
every target. `tests/gpu` runs the rest where there is a GPU.
"""
