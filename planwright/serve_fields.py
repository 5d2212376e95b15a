"""The `serve` part of config.yaml, checked against Triton's own ModelConfig message.

In      the plain mapping under ``serve`` and a function that names a place in config.yaml.
Out     faults, or a ModelConfig message with those fields set.

No mirror of Triton's fields is kept here: `json_format.ParseDict` knows them all. Only what Planwright decides
itself (names, types, batch size) and what one target lacks is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from planwright.errors import Fault, did_you_mean

Where = Callable[..., str]

REFUSED = {
    "name": "it is the model's key in config.yaml",
    "platform": "it follows the target",
    "backend": "it follows the target",
    "runtime": "a set runtime would bind the repository to one kind of server",
    "input": "tensors are read from the engine",
    "output": "tensors are read from the engine",
    "max_batch_size": "it is batch.max",
    "version_policy": "it follows versions:",
    "default_model_filename": "it follows the target",
}
# Fields that only NVIDIA's tensorrt backend knows (proto comments in triton common/protobuf/model_config.proto).
TENSORRT_ONLY: tuple[tuple[str, ...], ...] = (
    ("optimization", "cuda"),
    ("optimization", "gather_kernel_buffer_threshold"),
    ("optimization", "eager_batching"),
    ("cc_model_filenames",),
    ("instance_group", "*", "profile"),
    ("instance_group", "*", "gpus"),
)
# First server version that can read the field; an older one refuses the whole file (read in each release's parser).
FIELD_SINCE: dict[tuple[str, ...], tuple[int, int]] = {
    ("model_metrics",): (2, 52),
    ("ensemble_scheduling", "max_inflight_requests"): (2, 63),
}


def parse(serve: Mapping[str, Any]) -> Any:
    """Return a ModelConfig message with the fields of `serve` set; call `faults` first.

    Raises:
        google.protobuf.json_format.ParseError: A field is unknown or of the wrong type.
    """
    from google.protobuf import json_format
    from tritonclient.grpc import model_config_pb2

    return json_format.ParseDict(dict(serve), model_config_pb2.ModelConfig())


def field_names() -> list[str]:
    """Return the ModelConfig fields that `serve` takes."""
    from tritonclient.grpc import model_config_pb2

    return [field.name for field in model_config_pb2.ModelConfig.DESCRIPTOR.fields if field.name not in REFUSED]


def faults(serve: Mapping[str, Any], where: Where) -> list[Fault]:
    """Return every field of `serve` that Triton would not read, or that Planwright sets itself."""
    found = []
    for key in serve:
        if key in REFUSED:
            found.append(Fault(f"serve.{key} is not set here", where("serve", key), REFUSED[key], "remove the line"))
        else:
            found += _field_fault(key, serve[key], where)
    return found


def _field_fault(key: str, value: Any, where: Where) -> list[Fault]:
    from google.protobuf import json_format

    try:
        parse({key: value})
    except json_format.ParseError as error:
        text = str(error)
        unknown = re.search(r'no field named "([^"]+)" at "ModelConfig(?:\.([^"]*))?"', text)
        if unknown:
            return [_unknown(unknown[1], unknown[2] or "", where)]
        fix = "use the field's type in Triton's model_config.proto"
        return [Fault(f"serve.{key} does not fit Triton's ModelConfig", where("serve", key), _readable(text), fix)]
    return []


def _unknown(name: str, parent: str, where: Where) -> Fault:
    usable = _fields_below(_loc(parent)) if parent else field_names()
    loc = ["serve", *_loc(parent), name]
    return Fault(f"unknown field '{name}' in {'.'.join(['serve', *filter(None, [parent])])}", where(*loc),
                 "Triton's ModelConfig has no such field", did_you_mean(name, usable))  # fmt: skip


def _fields_below(loc: list[str | int]) -> list[str]:
    """Return the field names of the message at `loc` inside ModelConfig."""
    from tritonclient.grpc import model_config_pb2

    message = model_config_pb2.ModelConfig.DESCRIPTOR
    for part in loc:
        field = message.fields_by_name.get(part) if isinstance(part, str) else None
        message = field.message_type if field is not None and field.message_type else message
    return [field.name for field in message.fields]


def _loc(parent: str) -> list[str | int]:
    """Turn ``instance_group[0].rate_limiter`` into ['instance_group', 0, 'rate_limiter']."""
    return [int(part) if part.isdigit() else part for part in re.findall(r"[a-z_A-Z]+|\d+", parent)]


def _readable(text: str) -> str:
    return re.sub(r"^Failed to parse \w+ field: ", "", text).replace("inference.", "")


def target_faults(serve: Mapping[str, Any], target: str, where: Where) -> list[Fault]:
    """Return the fields of `serve` that `target` lacks."""
    if target == "tensorrt":
        return [
            Fault("the tensorrt target runs on the GPU only", where(*loc), f"kind is {kind}", "leave kind out")
            for loc, kind in _kinds(serve)
            if kind == "KIND_CPU"
        ]
    fix = "move it under targets.tensorrt.serve"
    found = [
        Fault(
            "the onnxruntime target runs on the CPU only", where(*loc), f"kind is {kind}", "leave kind out, or " + fix
        )
        for loc, kind in _kinds(serve)
        if kind == "KIND_GPU"
    ]
    for path in TENSORRT_ONLY:
        for loc in _present(serve, path):
            found.append(Fault(f"{loc[-1]} is for the tensorrt target only", where("serve", *loc), "this build is for onnxruntime", fix))  # fmt: skip
    return found


def version_faults(serve: Mapping[str, Any], server: tuple[int, int], where: Where) -> list[Fault]:
    """Return the fields of `serve` that a server of version `server` cannot read."""
    return [
        Fault(f"{'.'.join(path)} needs Triton {since[0]}.{since[1]}", where("serve", *path),
              f"the server is {server[0]}.{server[1]}, which would refuse the whole config.pbtxt", "remove it")
        for path, since in FIELD_SINCE.items()
        if server < since and any(True for _ in _present(serve, path))
    ]  # fmt: skip


def _kinds(serve: Mapping[str, Any]) -> Iterator[tuple[list[str | int], str]]:
    groups = serve.get("instance_group")
    for index, group in enumerate(groups if isinstance(groups, list) else []):
        if isinstance(group, dict) and "kind" in group:
            yield ["serve", "instance_group", index, "kind"], str(group["kind"])


def _present(value: Any, path: tuple[str, ...]) -> Iterator[list[str | int]]:
    if not path:
        yield []
    elif path[0] == "*":
        for index, item in enumerate(value if isinstance(value, list) else []):
            yield from ([index, *rest] for rest in _present(item, path[1:]))
    elif isinstance(value, dict) and path[0] in value:
        yield from ([path[0], *rest] for rest in _present(value[path[0]], path[1:]))
