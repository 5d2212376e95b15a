"""Checks that config.pbtxt fits the plan and that a request fits the profiles; the texts are those of NVIDIA's C++ backend.

In      config.pbtxt as JSON, a `Plan`, the profiles in use.
Out     nothing, or an exception that Triton shows.
"""

from __future__ import annotations

from typing import Any

_BATCH_DIM = (
    "an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making complete shape"
)
_IGNORED = {
    "busy_wait_events": "waits on events without spinning",
    "output_copy_stream": "always copies outputs on a separate stream",
}


class RequestError(Exception):
    """The request cannot be answered; its text is for the client."""


def check_config(config: dict[str, Any], plan: Any, profiles: list[int]) -> None:
    """Compare names, types, dims and batch size.

    Raises:
        ValueError: With every difference, separated by "; ".
    """
    faults = _profiles(config, plan, profiles)
    for kind, tensors in (("input", plan.inputs), ("output", plan.outputs)):
        known = {tensor.name: tensor for tensor in tensors}
        for item in config[kind]:
            tensor = known.pop(item["name"], None)
            if tensor is None:
                allowed = ", ".join(sorted(t.name for t in tensors))
                faults.append(f"unexpected inference {kind} '{item['name']}', allowed {kind}s are: {allowed}")
            else:
                faults += _tensor(config, kind, item, tensor)
        faults += [f"expected configuration for {kind} '{name}'" for name in known if kind == "input"]
    faults += _unsupported(config)
    if faults:
        raise ValueError("; ".join(faults))


def check_request(name: str, plan: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse shapes outside every profile.

    Raises:
        RequestError: With dimension, bounds and what was received.
    """
    for tensor in plan.inputs:
        bounds = [profile[tensor.name] for profile in plan.profiles if tensor.name in profile]
        for axis, size in enumerate(shapes[tensor.name]):
            if not bounds:
                break
            low, high = min(b[0][axis] for b in bounds), max(b[2][axis] for b in bounds)
            if not low <= size <= high:
                raise RequestError(
                    f"request specifies invalid shape for input '{tensor.name}' for {name}. Error details: model expected the "
                    f"shape of dimension {axis} to be between {low} and {high} but received {size}"
                )


def ignored_options(config: dict[str, Any]) -> list[str]:
    """Return a line for each option that a Python-based backend accepts but cannot apply."""
    optimization = config.get("optimization", {})
    cuda = optimization.get("cuda", {})
    ignored = {name: why for name, why in _IGNORED.items() if cuda.get(name)}
    lines = [f"optimization.cuda.{name} is not used: this backend {why}" for name, why in ignored.items()]
    if optimization.get("eager_batching"):
        lines.append("optimization.eager_batching is not used: the server hands over whole batches")
    if optimization.get("gather_kernel_buffer_threshold"):
        lines.append("optimization.gather_kernel_buffer_threshold is not used: inputs are gathered by copies")
    return lines


def _profiles(config: dict[str, Any], plan: Any, profiles: list[int]) -> list[str]:
    high, name = config["max_batch_size"], config["name"]
    missing = [str(p) for p in profiles if p >= max(len(plan.profiles), 1)]
    if missing:
        return [f"unable to use optimization profile {', '.join(missing)}: the plan has {len(plan.profiles)}"]
    if not high or not plan.profiles:
        return []
    reach = max(min(bounds[2][0] for bounds in plan.profiles[p].values() if bounds[2]) for p in profiles)
    if high > reach:
        return [
            f"autofill failed for model '{name}': configuration specified max-batch {high} but TensorRT engine only supports max-batch {reach}"
        ]
    return []


def _tensor(config: dict[str, Any], kind: str, item: dict[str, Any], tensor: Any) -> list[str]:
    faults = []
    expected = f"TYPE_{tensor.datatype}"
    if item["data_type"] != expected:
        label = f"inference {kind} '{item['name']}'"
        faults.append(f"unexpected datatype {item['data_type']} for {label}, expecting {expected}")
    dims = item["reshape"].get("shape", []) if item.get("reshape") else item["dims"]
    full = [-1, *(int(d) for d in dims)] if config["max_batch_size"] > 0 else [int(d) for d in dims]
    shape = list(tensor.shape)
    if len(full) == len(shape) and all(a == b or -1 in (a, b) for a, b in zip(full, shape, strict=True)):
        return faults
    declared = f" ({_BATCH_DIM} {full})" if config["max_batch_size"] > 0 else f" (shape {full})"
    expects = f"the model expects {len(shape)} dimensions (shape {shape})"
    return [
        *faults,
        f"model '{config['name']}', tensor '{item['name']}': {expects} but the model configuration specifies {len(full)} dimensions{declared}",
    ]


def _unsupported(config: dict[str, Any]) -> list[str]:
    """Return what the server accepts for a Python backend but does not do: the answers would be silently wrong."""
    used = {
        "batch_input": config.get("batch_input"),
        "batch_output": config.get("batch_output"),
        "sequence_batching.state": config.get("sequence_batching", {}).get("state"),
        "allow_ragged_batch": any(item.get("allow_ragged_batch") for item in config["input"]),
    }
    return [f"{field} needs NVIDIA's C++ tensorrt backend" for field, value in used.items() if value]
