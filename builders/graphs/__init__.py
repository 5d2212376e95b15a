"""ONNX graphs: facts read from them, checks, external data, the batch axis."""
