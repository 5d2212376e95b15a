"""TensorRT at build time: the child process that compiles, what it says, what it made.

In      an ONNX graph whose precision is decided, and the model's part of config.yaml.
Out     ``model.plan`` and ``layers.json``; or a `StageError` in the words of this project.

Nothing here is imported before the driver has shown a GPU, except by tests that hold it against the binding wheels.
"""
