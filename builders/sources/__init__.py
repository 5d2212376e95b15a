"""What a model is made of: zoo files, PyTorch and ONNX; what they promise, and their samples."""
