"""ONNX graphs as they are: facts read from them, checks, external data, the batch axis."""
