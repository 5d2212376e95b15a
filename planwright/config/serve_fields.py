"""The `serve` part of config.yaml, checked against Triton's own ModelConfig message.

In      the plain mapping under ``serve`` and a function that names a place in config.yaml.
Out     faults, or a ModelConfig message with those fields set.

The fields come from the message's descriptor and `json_format.ParseDict`, so there is no copy of Triton's schema here. Refused
is only what Planwright decides itself (names, types, batch size) and what a target lacks. What Triton rejects in fields that
it can read is in `planwright.config.serve_rules`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from planwright.errors import Fault, did_you_mean

Where = Callable[..., str]
Loc = tuple[str | int, ...]

REFUSED = {
    "name": "it is the model's key in config.yaml",
    "platform": "it follows the target",
    "backend": "it follows the target",
    "runtime": "it would tie the repository to one kind of server",
    "input": "tensors are read from the engine",
    "output": "tensors are read from the engine",
    "max_batch_size": "it is batch.max",
    "version_policy": "it follows versions:",
    "default_model_filename": "it follows the target",
    "cc_model_filenames": "it follows compile.architectures",
    "batch_input": "it computes one of the engine's inputs, and those come from the client",
    "batch_output": "the engine's outputs are served unchanged",
    "ensemble_scheduling": "an ensemble has no engine",
    "model_repository_agents": "an agent may change files after verification",
    "model_operations": "libraries of custom operators are not published with a model",
}
# Fields that only NVIDIA's tensorrt backend knows (proto comments in triton common/protobuf/model_config.proto).
TENSORRT_ONLY: tuple[tuple[str, ...], ...] = (
    ("optimization", "cuda"),
    ("optimization", "gather_kernel_buffer_threshold"),
    ("optimization", "eager_batching"),
    ("instance_group", "*", "profile"),
    ("instance_group", "*", "gpus"),
    ("instance_group", "*", "secondary_devices"),
)
# First server version that can read the field; an older one rejects the whole file (from each release's parser).
FIELD_SINCE: dict[tuple[str, ...], tuple[int, int]] = {("model_metrics",): (2, 52)}


def parse(serve: Mapping[str, Any]) -> Any:
    """Return a ModelConfig message with the fields of `serve` set; call `faults` first.

    Raises:
        google.protobuf.json_format.ParseError: A field is unknown or of the wrong type.
    """
    from google.protobuf import json_format
    from tritonclient.grpc import model_config_pb2

    return json_format.ParseDict(dict(serve), model_config_pb2.ModelConfig())


def field_names() -> list[str]:
    """Return the ModelConfig fields that `serve` accepts."""
    from tritonclient.grpc import model_config_pb2

    return [field.name for field in model_config_pb2.ModelConfig.DESCRIPTOR.fields if field.name not in REFUSED]


def readable(serve: Mapping[str, Any]) -> Any:
    """Return a ModelConfig message with those fields of `serve` that are valid."""
    from google.protobuf import json_format
    from tritonclient.grpc import model_config_pb2

    config = model_config_pb2.ModelConfig()
    for key, value in serve.items():
        try:
            config.MergeFrom(json_format.ParseDict({key: value}, model_config_pb2.ModelConfig()))
        except json_format.ParseError:
            continue  # `faults` reports it
    return config


def faults(serve: Mapping[str, Any], where: Where) -> list[Fault]:
    """Return a fault for every field of `serve` that Triton cannot read, or that Planwright sets itself."""
    from tritonclient.grpc import model_config_pb2

    refused, fix = [key for key in serve if key in REFUSED], "remove the line"
    found = [Fault(f"serve.{key} cannot be set here", where("serve", key), REFUSED[key], fix) for key in refused]
    rest = {key: value for key, value in serve.items() if key not in REFUSED}
    return found + list(_message_faults(rest, model_config_pb2.ModelConfig.DESCRIPTOR, ("serve",), where))


def _message_faults(value: Mapping[str, Any], message: Any, loc: Loc, where: Where) -> Iterator[Fault]:
    fields = message.fields_by_name
    for key, item in value.items():
        field, place = fields.get(key), (*loc, key)
        if field is None:
            known = field_names() if loc == ("serve",) else list(fields)
            what, why = f"unknown field '{key}' in {'.'.join(map(str, loc))}", "Triton's ModelConfig has no such field"
            yield Fault(what, where(*place), why, did_you_mean(str(key), known))
        elif item is not None:  # as in Triton's JSON, null is a field that is not given
            yield from _value_faults(item, field, place, where)
    for oneof in message.oneofs:
        given = [field.name for field in oneof.fields if value.get(field.name) is not None]
        if len(given) > 1:
            yield Fault(f"{' and '.join(given)} are mutually exclusive", where(*loc, given[1]),
                        f"Triton accepts one of them; the other is at {where(*loc, given[0])}", "keep one")  # fmt: skip


def _value_faults(value: Any, field: Any, loc: Loc, where: Where) -> Iterator[Fault]:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        yield from _map_faults(value, field, loc, where)
    elif _repeated(field):
        if not isinstance(value, list):
            yield _wrong_type(loc, where, f"expected a list, got {value!r}", "put it in brackets: [...]")
            return
        for index, item in enumerate(value):
            if message is None:
                yield from _scalar_faults([item], field, (*loc, index), where)
            else:
                yield from _one_message(item, message, (*loc, index), where)
    elif message is not None:
        yield from _one_message(value, message, loc, where)
    else:
        yield from _scalar_faults(value, field, loc, where)


def _repeated(field: Any) -> bool:
    """True for a list; protobuf 6 deprecates `label`, and 5 does not have `is_repeated`."""
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)


def _one_message(value: Any, message: Any, loc: Loc, where: Where) -> Iterator[Fault]:
    if isinstance(value, dict):
        yield from _message_faults(value, message, loc, where)
        return
    example = message.fields[0].name if message.fields else ""
    fix = f'write {{string_value: "{value}"}}' if example == "string_value" else f"write a mapping: {{{example}: ...}}"
    yield _wrong_type(loc, where, f"expected a mapping, got {value!r}", fix)


def _map_faults(value: Any, field: Any, loc: Loc, where: Where) -> Iterator[Fault]:
    if not isinstance(value, dict):
        yield _wrong_type(loc, where, f"expected a mapping, got {value!r}", "write a mapping: {key: ...}")
        return
    message = field.message_type.fields_by_name["value"].message_type
    for key, item in value.items():
        if loc == ("serve", "parameters") and str(key).startswith("planwright_"):
            continue  # reserved: see `serve_rules`
        if message is not None and item is not None:
            yield from _one_message(item, message, (*loc, key), where)
        placeholder = {} if message is not None else item
        yield from _scalar_faults({str(key): placeholder}, field, (*loc, key), where)


def _scalar_faults(value: Any, field: Any, loc: Loc, where: Where) -> Iterator[Fault]:
    """Let protobuf itself parse one value."""
    from google.protobuf import json_format, message_factory

    try:
        json_format.ParseDict({field.name: value}, message_factory.GetMessageClass(field.containing_type)())
    except json_format.ParseError as error:
        fix = "use the field's type in Triton's model_config.proto"
        if field.enum_type is not None:
            fix = did_you_mean(str(value), [name.name for name in field.enum_type.values])
        elif "string" in str(error):
            fix = f'quote it: "{value}"'
        yield _wrong_type(loc, where, _readable(str(error)), fix)


def _wrong_type(loc: Loc, where: Where, why: str, fix: str) -> Fault:
    return Fault(f"{'.'.join(map(str, loc))} does not fit Triton's ModelConfig", where(*loc), why, fix)


def _readable(text: str) -> str:
    return re.sub(r"^Failed to parse \w+ field: ", "", text).replace("inference.", "").partition(' at "')[0]


def target_faults(serve: Mapping[str, Any], target: str, where: Where) -> list[Fault]:
    """Return the fields of `serve` that `target` lacks."""
    on_gpu, fix = target == "tensorrt", "move it under targets.tensorrt.serve"
    device, refused = ("GPU", "KIND_CPU") if on_gpu else ("CPU", "KIND_GPU")
    what = f"the {target} target runs on the {device} only"
    change = "leave kind out" if on_gpu else f"leave kind out, or {fix}"
    found = [Fault(what, where(*loc), f"kind is {kind}", change) for loc, kind in _kinds(serve) if kind == refused]
    for path in () if on_gpu else TENSORRT_ONLY:
        for loc in _present(serve, path):
            what = f"{loc[-1]} is for the tensorrt target only"
            found.append(Fault(what, where("serve", *loc), "this build is for onnxruntime", fix))
    return found


def embedded_faults(serve: Mapping[str, Any], where: Where) -> list[Fault]:
    """Return the fields of `serve` that the embedded server silently ignores."""
    what, fix = "execution_accelerators have no effect", "remove them, or name the image in server:"
    why = "the embedded server's Python backends have no accelerators; NVIDIA's image has"
    accelerators = _present(serve, ("optimization", "execution_accelerators"))
    return [Fault(what, where("serve", *loc), why, fix) for loc in accelerators]


def version_faults(serve: Mapping[str, Any], server: tuple[int, int], where: Where) -> list[Fault]:
    """Return the fields of `serve` that a server of version `server` cannot read."""
    return [
        Fault(f"{'.'.join(path)} needs Triton {since[0]}.{since[1]}", where("serve", *path),
              f"the server is {server[0]}.{server[1]}, which would reject the whole config.pbtxt", "remove it")
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
