"""Build TensorRT-RTX engines from lowered ONNX files, on machines with and without a GPU."""
