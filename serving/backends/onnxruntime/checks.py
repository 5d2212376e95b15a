"""Does config.pbtxt fit the model, and can this Python be trusted with numbers.

In      config.pbtxt as JSON, an onnxruntime session.
Out     nothing, or an exception that Triton shows as the reason why the model is not ready.

The texts follow NVIDIA's C++ backends, so that the same mistake reads the same on both servers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# onnxruntime type, config.pbtxt type, numpy type
_TYPES = (
    ("tensor(bool)", "TYPE_BOOL", np.bool_),
    ("tensor(uint8)", "TYPE_UINT8", np.uint8),
    ("tensor(uint16)", "TYPE_UINT16", np.uint16),
    ("tensor(uint32)", "TYPE_UINT32", np.uint32),
    ("tensor(uint64)", "TYPE_UINT64", np.uint64),
    ("tensor(int8)", "TYPE_INT8", np.int8),
    ("tensor(int16)", "TYPE_INT16", np.int16),
    ("tensor(int32)", "TYPE_INT32", np.int32),
    ("tensor(int64)", "TYPE_INT64", np.int64),
    ("tensor(float16)", "TYPE_FP16", np.float16),
    ("tensor(float)", "TYPE_FP32", np.float32),
    ("tensor(double)", "TYPE_FP64", np.float64),
    ("tensor(string)", "TYPE_STRING", np.object_),
)
_CONFIG_TYPE = {ort_type: config_type for ort_type, config_type, _ in _TYPES}
_NUMPY = {config_type: dtype for _, config_type, dtype in _TYPES}


def tensor_dtype(config_type: str) -> Any:
    """Return the numpy type of a config.pbtxt type."""
    return _NUMPY[config_type]


def check_numpy(pb_utils: Any) -> None:
    """Refuse a Python whose numpy the stub reads wrongly.

    The stub of server 2.51 was built for numpy 1: under numpy 2 it returns the first element repeated, in silence. A
    round trip through DLPack builds the array from raw memory, which is where the mistake shows.
    """
    for dtype in (np.uint8, np.int8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64):
        sent = np.arange(12, dtype=dtype).reshape(3, 4)
        back = pb_utils.Tensor.from_dlpack("t", pb_utils.Tensor("t", sent).to_dlpack()).as_numpy()
        if not np.array_equal(sent, back):
            raise RuntimeError(
                f"numpy {np.__version__} does not work with this server's stub: a {np.dtype(dtype)} array came back changed; "
                "install numpy<2 in the server's environment (make setup)"
            )


def check_config(config: dict[str, Any], session: Any) -> None:
    """Compare names, types and dims.

    Raises:
        ValueError: With every difference, one per line.
    """
    faults = []
    batching = config["max_batch_size"] > 0
    for kind, declared, actual in (("input", config["input"], session.get_inputs()), ("output", config["output"], session.get_outputs())):
        faults += _side(config["name"], kind, declared, {item.name: item for item in actual}, batching)
    if faults:
        raise ValueError("; ".join(faults))


def _side(model: str, kind: str, declared: list[dict[str, Any]], actual: dict[str, Any], batching: bool) -> list[str]:
    faults = []
    for item in declared:
        tensor = actual.get(item["name"])
        if tensor is None:
            allowed = ", ".join(sorted(actual))
            faults.append(f"unexpected inference {kind} '{item['name']}', allowed {kind}s are: {allowed}")
            continue
        expected = _CONFIG_TYPE.get(tensor.type, tensor.type)
        if item["data_type"] != expected:
            faults.append(f"unexpected datatype {item['data_type']} for inference {kind} '{item['name']}', expecting {expected}")
        faults += _dims(model, item, tensor, batching)
    if kind == "input":
        names = {item["name"] for item in declared}
        faults += [f"expected configuration for input '{name}'" for name in actual if name not in names]
    return faults


def _dims(model: str, item: dict[str, Any], tensor: Any, batching: bool) -> list[str]:
    dims = item.get("reshape", {}).get("shape", item["dims"]) if item.get("reshape") else item["dims"]
    shape = [dim if isinstance(dim, int) else -1 for dim in tensor.shape]
    full = [-1, *dims] if batching else list(dims)
    name = f"model '{model}', tensor '{item['name']}'"
    if batching and shape and shape[0] != -1:
        return [f"{name}: model configuration supports batching but first dimension of the tensor ({shape}) is not a variable-size batch dimension"]
    if len(full) != len(shape) or any(a != b and -1 not in (a, b) for a, b in zip(full, shape)):  # noqa: B905 - lengths differ
        note = " (an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape)" if batching else ""
        return [f"{name}: the model expects {len(shape)} dimensions (shape {shape}) but the model configuration specifies {len(full)} dimensions{note} (shape {full})"]
    return []
