"""Checks that config.pbtxt fits the model, and that the stub reads this Python's numpy arrays correctly.

In      config.pbtxt as JSON, an onnxruntime session.
Out     nothing, or an exception that Triton reports as the reason why the model is not ready.

The rules are those of NVIDIA's C++ onnxruntime backend, so that a config.pbtxt that loads here also loads there: a dim that
the model leaves open accepts any value for an input, and must be -1 for an output. All differences are reported at once.
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
_NO_BATCH = (
    "for the model to support batching the shape should have at least 1 dimension and the first dimension must be -1; "
    "but shape expected by the model is"
)
_BATCH_DIM = (
    "an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making complete shape"
)
_CONFIG_TYPE = {ort_type: config_type for ort_type, config_type, _ in _TYPES}
_NUMPY = {config_type: dtype for _, config_type, dtype in _TYPES}


def tensor_dtype(config_type: str) -> Any:
    return _NUMPY[config_type]


def check_numpy(pb_utils: Any) -> None:
    """Refuse a Python whose numpy arrays the stub misreads.

    The stub of server 2.51 was built for numpy 1: with numpy 2 it silently returns the first element repeated. A round
    trip through DLPack builds the array from raw memory, which reveals it.
    """
    for dtype in sorted({np.dtype(d) for _, _, d in _TYPES if d is not np.object_}, key=str):
        sent = (np.arange(12) % (2 if dtype == np.bool_ else 12)).astype(dtype).reshape(3, 4)
        back = pb_utils.Tensor.from_dlpack("t", pb_utils.Tensor("t", sent).to_dlpack()).as_numpy()
        if not np.array_equal(sent, back):
            raise RuntimeError(
                f"numpy {np.__version__} does not work with this server's stub: a {dtype} array came back changed; "
                "the server's environment needs numpy below 2 (make setup makes it)"
            )


def check_config(config: dict[str, Any], session: Any) -> None:
    """Compare names, types and dims.

    Raises:
        ValueError: With every difference, separated by "; ".
    """
    faults = _unsupported(config)
    required = {item.name: item for item in session.get_inputs()}
    allowed = {**required, **{item.name: item for item in session.get_overridable_initializers()}}
    faults += _tensors(config, "input", allowed)
    given = {item["name"] for item in config["input"]} | set(control_inputs(config))
    faults += [f"expected configuration for input '{name}'" for name in required if name not in given]
    faults += _tensors(config, "output", {item.name: item for item in session.get_outputs()})
    if faults:
        raise ValueError("; ".join(faults))


def control_inputs(config: dict[str, Any]) -> list[str]:
    """Return the inputs that the server itself adds for a sequence (start, end, ready, correlation id)."""
    return [item["name"] for item in config.get("sequence_batching", {}).get("control_input", [])]


def _unsupported(config: dict[str, Any]) -> list[str]:
    """Name what the server accepts for a Python backend and then leaves undone: the answers would be wrong in silence."""
    used = {
        "batch_input": config.get("batch_input"),
        "batch_output": config.get("batch_output"),
        "sequence_batching.state": config.get("sequence_batching", {}).get("state"),
        "allow_ragged_batch": any(item.get("allow_ragged_batch") for item in config["input"]),
    }
    return [f"{field} needs NVIDIA's C++ onnxruntime backend" for field, value in used.items() if value]


def _tensors(config: dict[str, Any], kind: str, actual: dict[str, Any]) -> list[str]:
    faults = []
    for item in config[kind]:
        tensor = actual.get(item["name"])
        label = f"inference {kind} '{item['name']}'"
        if tensor is None:
            faults.append(f"unexpected {label}, allowed {kind}s are: {', '.join(sorted(actual))}")
            continue
        expected = _CONFIG_TYPE.get(tensor.type, tensor.type)
        if item["data_type"] != expected:
            faults.append(f"unexpected datatype {item['data_type']} for {label}, expecting {expected}")
        faults += _dims(config, item, tensor, exact=kind == "output")
    return faults


def _dims(config: dict[str, Any], item: dict[str, Any], tensor: Any, *, exact: bool) -> list[str]:
    dims = item["reshape"].get("shape", []) if item.get("reshape") else item["dims"]
    shape = [dim if isinstance(dim, int) and dim >= 0 else -1 for dim in tensor.shape]
    batching = config["max_batch_size"] > 0
    full = [-1, *dims] if batching else list(dims)
    name = f"model '{config['name']}', tensor '{item['name']}'"
    if not shape and not batching:
        return [] if all(dim == 1 for dim in dims) else [f"{name}: a scalar takes only 1 as its dims, not {dims}"]
    if batching and (not shape or shape[0] != -1):
        return [f"{name}: {_NO_BATCH} {shape}"]
    if len(full) == len(shape) and all(a == b or (a == -1 and not exact) for a, b in zip(shape, full, strict=True)):
        return []
    declared = f" ({_BATCH_DIM} {full})" if batching else f" (shape {full})"
    expects = f"the model expects {len(shape)} dimensions (shape {shape})"
    return [f"{name}: {expects} but the model configuration specifies {len(full)} dimensions{declared}"]
