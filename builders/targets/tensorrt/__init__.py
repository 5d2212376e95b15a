"""TensorRT at build time: the child process that compiles, its messages and its results.

In      an ONNX graph whose precision is decided, and the model's part of config.yaml.
Out     ``model.plan`` and ``layers.json``; or a `StageError` with cause and fix.

Nothing here is imported before the driver reports a GPU, except by tests that check it against the binding wheels.
"""
