"""From a trained checkpoint to a model bundle: the recurrent ONNX graph, the manifest, and the parity of runtimes."""
