"""FP32 ONNX to FP16, BF16, INT8 or FP8 in the graph, and the samples that set the ranges."""
