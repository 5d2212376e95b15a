"""Encode requests and decode answers, for HTTP and for gRPC; no network.

In      a `Chunk`, and which tensors lie in shared memory.
Out     `HttpBody` or a serialized ``ModelInferRequest``, and the arrays of an answer.

HTTP bodies are made by tritonclient's own builder. gRPC messages are filled here, because tritonclient's public class
copies each tensor twice and cannot be built ahead of the call.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from planwright.errors import Fault
from planwright.tensors import Array, Arrays, TensorSpec, datatype_from_numpy

from ..errors import InvalidRequest, unreadable_answer
from ..request import Chunk, ModelInfo, SequenceStep

GRPC_SERVICE = "/inference.GRPCInferenceService/"
GRPC_INFER = GRPC_SERVICE + "ModelInfer"


@dataclass(frozen=True)
class MemoryRange:
    """Where a tensor lies in shared memory."""

    region: str
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class HttpBody:
    """A whole HTTP request, ready to be sent any number of times."""

    path: str
    content: bytes
    headers: dict[str, str]
    header_lines: str


MemoryRanges = Mapping[str, MemoryRange]
_LAYOUT_BYTES = 2048  # longer heads hold values, which differ from answer to answer
_NONE: MemoryRanges = {}
# what reading garbage raises
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, struct.error)


def http_body(info: ModelInfo, chunk: Chunk, inputs: MemoryRanges = _NONE, outputs: MemoryRanges = _NONE) -> HttpBody:
    """Build the request with binary tensors."""
    from tritonclient.http import InferenceServerClient

    tensors = [_http_input(name, array, inputs.get(name)) for name, array in chunk.arrays.items()]
    wanted = [_http_output(tensor.name, outputs.get(tensor.name)) for tensor in info.outputs]
    step = chunk.step
    sequence = {"sequence_id": step.sequence_id, "sequence_start": step.start, "sequence_end": step.end} if step else {}
    content, json_size = InferenceServerClient.generate_request_body(tensors, outputs=wanted, **sequence)
    headers = {"Content-Type": "application/octet-stream"}
    if json_size is not None:
        headers["Inference-Header-Content-Length"] = str(json_size)
    path = f"{model_path(info.name, info.version)}/infer"
    return HttpBody(path, bytes(content), headers, header_lines(headers))


def header_lines(headers: Mapping[str, str]) -> str:
    """Return headers as HTTP/1.1 sends them."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def model_path(model: str, version: str = "") -> str:
    """Return the path of a model; any name is safe in it.

    Example:
        >>> model_path("a b", "2")
        '/v2/models/a%20b/versions/2'
    """
    return f"/v2/models/{quote(model, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")


def _http_input(name: str, array: Array, memory: MemoryRange | None) -> Any:
    from tritonclient.http import InferInput

    tensor = InferInput(name, list(array.shape), datatype_from_numpy(array.dtype))
    if memory is None:
        tensor.set_data_from_numpy(array)
    else:
        tensor.set_shared_memory(memory.region, memory.size_bytes, offset=memory.offset)
    return tensor


def _http_output(name: str, memory: MemoryRange | None) -> Any:
    from tritonclient.http import InferRequestedOutput

    output = InferRequestedOutput(name, binary_data=memory is None)
    if memory is not None:
        output.set_shared_memory(memory.region, memory.size_bytes, offset=memory.offset)
    return output


def http_answer(info: ModelInfo, content: bytes, header_length: str | None, shared: MemoryRanges = _NONE) -> Arrays:
    """Return the arrays of an HTTP answer, without those that lie in `shared` memory.

    Decoded here and not by tritonclient's InferResult, which defines a class on each call.

    Raises:
        ServerError: It is not an answer to an inference request.
    """
    try:
        start = int(header_length) if header_length else len(content)
        head = bytes(content[:start])  # geventhttpclient before 2.5 returns a bytearray, which cannot be a key
        found = {}
        for spec, size, data in _layout(head) if len(head) <= _LAYOUT_BYTES else _read_layout(head):
            if size is not None:
                found[spec.name] = _from_raw(content[start : start + size], spec)
                start += size
            elif spec.name not in shared:
                found[spec.name] = np.array(data, dtype=spec.numpy_dtype).reshape(spec.shape)
    except UNREADABLE as error:
        raise unreadable_answer(info.name, error) from None
    return found


def _read_layout(head: bytes) -> tuple[tuple[TensorSpec, int | None, Any], ...]:
    """Return, per output, its name and type, its number of raw bytes (None where it has none), and its values where they are JSON."""
    found = []
    for output in json.loads(head)["outputs"]:
        spec = TensorSpec(output["name"], output["datatype"], tuple(output["shape"]))
        found.append((spec, output.get("parameters", {}).get("binary_data_size"), output.get("data")))
    return tuple(found)


# answers of one shape have the same head, so reading one again is a look-up
_layout = functools.lru_cache(maxsize=64)(_read_layout)


def grpc_request(info: ModelInfo, chunk: Chunk, inputs: MemoryRanges = _NONE, outputs: MemoryRanges = _NONE) -> bytes:
    """Build the message, serialized.

    Raises:
        InvalidRequest: It is larger than gRPC allows.
    """
    from google.protobuf.message import EncodeError
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=info.name, model_version=info.version)
    if chunk.step:
        _grpc_sequence(request.parameters, chunk.step)
    for name, array in chunk.arrays.items():
        tensor = request.inputs.add(name=name, datatype=datatype_from_numpy(array.dtype), shape=array.shape)
        if name in inputs:
            _grpc_range(tensor.parameters, inputs[name])
        else:
            request.raw_input_contents.append(_raw(array))
    for spec in info.outputs:
        output = request.outputs.add(name=spec.name)
        if spec.name in outputs:
            _grpc_range(output.parameters, outputs[spec.name])
    try:
        return bytes(request.SerializeToString())
    except EncodeError as error:
        fix = "send smaller batches, or use shared memory"
        what = f"the request to '{info.name}' is larger than gRPC allows"
        raise InvalidRequest(Fault(what, why=str(error), fix=fix)) from None


def _grpc_range(parameters: Any, memory: MemoryRange) -> None:
    parameters["shared_memory_region"].string_param = memory.region
    parameters["shared_memory_byte_size"].int64_param = memory.size_bytes
    if memory.offset:
        parameters["shared_memory_offset"].int64_param = memory.offset


def _grpc_sequence(parameters: Any, step: SequenceStep) -> None:
    if isinstance(step.sequence_id, str):
        parameters["sequence_id"].string_param = step.sequence_id
    else:
        parameters["sequence_id"].int64_param = step.sequence_id
    parameters["sequence_start"].bool_param = step.start
    parameters["sequence_end"].bool_param = step.end


def grpc_answer(info: ModelInfo, content: bytes | memoryview, shared: MemoryRanges = _NONE) -> Arrays:
    """Return the arrays of a serialized ModelInferResponse, without those that lie in `shared` memory.

    The server sends one raw content per output, an empty one for an output in shared memory. Answers of one shape differ in their raw
    contents only, so everything around those is parsed once.

    Raises:
        ServerError: The contents do not match the answer's own description.
    """
    key = (info.name, len(content))
    try:
        pairs = _cut(content, _FRAMES.get(key))
        if pairs is None:
            pairs, frame = _read_message(content)
            if frame is not None:
                _remember(key, frame)
        return {spec.name: _from_raw(raw, spec) for spec, raw in pairs if spec.name not in shared}
    except UNREADABLE as error:
        raise unreadable_answer(info.name, error) from None


# per raw content: the bytes before it (tag and length; for the first one everything before it), its length, its output
_Frame = tuple[tuple[bytes, int, TensorSpec], ...]
_FRAMES: dict[tuple[str, int], _Frame] = {}
_MAX_FRAMES = 256
_RAW_TAG = b"\x32"  # raw_output_contents is field 6 of ModelInferResponse, and its last
_Pairs = list[tuple[TensorSpec, Any]]


def _remember(key: tuple[str, int], frame: _Frame) -> None:
    if len(_FRAMES) >= _MAX_FRAMES:
        _FRAMES.clear()
    _FRAMES[key] = frame


def _cut(content: bytes | memoryview, frame: _Frame | None) -> _Pairs | None:
    """Return the raw contents of an answer that has this frame; None where its frame differs."""
    if not frame:  # no outputs, or not seen yet
        return None
    found, at = [], 0
    for before, size, spec in frame:
        start = at + len(before)
        if content[at:start] != before:
            return None
        at = start + size
        found.append((spec, content[start:at]))
    return found


def _read_message(content: bytes | memoryview) -> tuple[_Pairs, _Frame | None]:
    """Return the raw contents by protobuf's parser, and the frame around them; None where the answer does not end with them."""
    from google.protobuf.message import DecodeError
    from tritonclient.grpc import service_pb2

    try:
        message = service_pb2.ModelInferResponse.FromString(content)
    except DecodeError as error:
        raise ValueError(error) from None
    specs = [TensorSpec(output.name, output.datatype, tuple(output.shape)) for output in message.outputs]
    pairs = list(zip(specs, message.raw_output_contents, strict=True))
    tags = [_RAW_TAG + _varint(len(raw)) for _, raw in pairs]
    tail = sum(len(tag) + len(raw) for tag, (_, raw) in zip(tags, pairs, strict=True))
    tags[:1] = [bytes(content[: len(content) - tail]) + tag for tag in tags[:1]]
    frame = tuple((tag, len(raw), spec) for tag, (spec, raw) in zip(tags, pairs, strict=True))
    cut = _cut(content, frame)
    matches = cut is not None and all(bytes(found) == raw for (_, found), (_, raw) in zip(cut, pairs, strict=True))
    return pairs, frame if matches else None


def _varint(value: int) -> bytes:
    """Return a number as protobuf writes it: seven bits a byte, the lowest first."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _raw(array: Array) -> bytes:
    if array.dtype.kind != "O":
        return array.tobytes()
    from tritonclient.utils import serialize_byte_tensor

    packed = serialize_byte_tensor(array)
    return bytes(packed.item()) if packed.size else b""


def _from_raw(content: bytes | memoryview, spec: TensorSpec) -> Array:
    if spec.datatype != "BYTES":
        array = np.frombuffer(content, spec.numpy_dtype).reshape(spec.shape)
        return array if array.flags.aligned else array.copy()  # a view begins wherever the text before it ends
    from tritonclient.utils import deserialize_bytes_tensor

    texts: Array = deserialize_bytes_tensor(content)
    return texts.reshape(spec.shape)
