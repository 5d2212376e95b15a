"""A TensorRT plan at run time: shared by verify, by the bench, and by the Python-based backend.

In      a plan.
Out     `plan.Plan` (what it says of itself) and `runner.Runner` (executes it over named tensors).

serving copies this folder beside the backend, so its modules import each other relatively and nothing else of the
project. tensorrt and the CUDA binding are imported when these modules are, and only where a plan is at hand.
"""
