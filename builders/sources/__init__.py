"""Sources of models: PyTorch code and ONNX files, their contract, their samples."""
