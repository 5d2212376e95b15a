"""Check and split requests, and join answers; no network.

In      a model's config as the server returns it, arrays and a sequence's id from the caller.
Out     `ModelInfo`, checked `Chunk`s, joined answers.

The blocking and the asyncio client share everything here; they differ only in how they wait.
"""

from __future__ import annotations

import json
import operator
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from planwright.config_pbtxt import FIXED_BATCH, SCALARS
from planwright.errors import Fault, did_you_mean
from planwright.tensors import Array, Arrays, TensorSpec, datatype_from_config, datatype_from_numpy, shape_fits

from .arrays import as_array, sendable
from .errors import InvalidRequest, ServerError, unreadable_answer
from .options import checked_flag, printable, unreadable_mapping

Shape = tuple[int, ...]
Args = tuple[Any, ...]  # inputs by position
Inputs = Mapping[str, Any]  # inputs by name
_MAX_ID = 2**63 - 1  # gRPC carries it as an int64
_MAX_ID_BYTES = 128  # of the server's text ids: triton-inference-server/core, src/infer_request.cc


@dataclass(frozen=True)
class ModelInfo:
    """A served model.

    Attributes:
        name, version: As served; version is empty for "the newest".
        inputs, outputs: The model's own shapes: of one sample for a model that batches, of the whole tensor for one that does not.
        max_batch_size: Largest batch of one request; 0 where there is no batch axis.
        fixed_batch: Batch of a static engine, to which the client pads; 0 for none.
        parameters: ``parameters`` of config.pbtxt.
        sent: Shapes in requests and answers, without the batch axis, of tensors where they are not the model's own.
        sequence: True where requests belong to sequences (``sequence_batching``), and each is one sample.
        queue: Most requests that may wait in the server; 0 where there is no limit.
        decoupled: True where a request has any number of answers, which these clients do not support.
    """

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    fixed_batch: int
    parameters: Mapping[str, str]
    sent: Mapping[str, Shape] = field(default_factory=dict)
    sequence: bool = False
    decoupled: bool = False
    queue: int = 0

    @property
    def batches(self) -> bool:
        """True where several samples go into one request."""
        return bool(self.max_batch_size or self.fixed_batch)

    @property
    def limit(self) -> int:
        """Largest number of samples in one request."""
        return self.fixed_batch or (self.max_batch_size if not self.sequence else 0) or 1


@dataclass(frozen=True)
class SequenceStep:
    """Where in a sequence a request stands, for models with ``sequence_batching``; an id of None is a new one for each request.

    The server sends all requests of one id to the same instance of the model, in order. Without an id every request gets a new
    sequence, which only makes sense where it both starts and ends it.
    """

    sequence_id: int | str | None
    start: bool
    end: bool

    def with_id(self) -> SequenceStep:
        """Return the same step, with a random id where it has none."""
        return self if self.sequence_id is not None else replace(self, sequence_id=1 + secrets.randbelow(_MAX_ID))


@dataclass(frozen=True)
class Chunk:
    """One request: arrays as sent, how many of their rows are real (the rest pads a static batch), its step in a sequence."""

    arrays: Arrays
    rows: int
    step: SequenceStep | None = None


def model_info(name: str, config: Mapping[str, Any], version: str) -> ModelInfo:
    """Build a `ModelInfo` from the config that the server returns."""
    parameters = {key: str(value.get("string_value", "")) for key, value in config.get("parameters", {}).items()}
    fixed = int(parameters.get(FIXED_BATCH, 0))
    scalars = set(json.loads(parameters.get(SCALARS, "[]")))
    sides = [[_tensor(item, fixed, scalars) for item in config.get(kind, [])] for kind in ("input", "output")]
    inputs, outputs = (tuple(spec for spec, _ in side) for side in sides)
    sent = {spec.name: shape for side in sides for spec, shape in side if shape != spec.shape}
    policy = (config.get("dynamic_batching") or {}).get("default_queue_policy") or {}
    return ModelInfo(
        name, version, inputs, outputs, int(config.get("max_batch_size", 0)), fixed, parameters, sent,
        sequence=config.get("sequence_batching") is not None,
        decoupled=bool((config.get("model_transaction_policy") or {}).get("decoupled")),
        queue=int(policy.get("max_queue_size", 0)),
    )  # fmt: skip


def _tensor(item: Mapping[str, Any], fixed: int, scalars: Collection[str]) -> tuple[TensorSpec, Shape]:
    """Return a tensor with the model's own shape, and the shape in requests and answers."""
    name, reshape = str(item["name"]), item.get("reshape")
    dims = _shape(item["dims"])
    own = dims if reshape is None else _shape(reshape.get("shape", []))
    own = () if name in scalars else own
    spec = TensorSpec(name, datatype_from_config(str(item["data_type"])), own[1:] if fixed else own)
    try:
        _ = spec.numpy_dtype
    except KeyError:
        fix = "use FP16 or FP32 for the model's inputs and outputs, and convert inside"
        raise InvalidRequest(Fault(f"'{name}' is {spec.datatype}, which numpy does not have", fix=fix)) from None
    return spec, dims[1:] if fixed else dims


def _shape(dims: Iterable[Any]) -> Shape:
    return tuple(int(dim) for dim in dims)


def named(info: ModelInfo, args: Args, inputs: Inputs) -> Mapping[str, Any]:
    """Return inputs by name, whichever way the caller passed them.

    Raises:
        InvalidRequest: More positional inputs than the model has, one given twice, or a mapping that cannot be read.
    """
    if len(args) == 1 and isinstance(args[0], Mapping) and not inputs:
        return _as_dict(info, args[0])
    names = [tensor.name for tensor in info.inputs]
    if len(args) > len(names):
        why = f"got {len(args)}; they are {', '.join(names)}"
        raise InvalidRequest(Fault(f"{info.name} takes {len(names)} inputs", why=why, fix="pass them by name"))
    both = [name for name in names[: len(args)] if name in inputs]
    if both:
        raise InvalidRequest(Fault(f"input '{both[0]}' is specified twice", fix="pass it by name or by position"))
    return {**dict(zip(names, args, strict=False)), **inputs}


def _as_dict(info: ModelInfo, given: Mapping[Any, Any]) -> dict[str, Any]:
    try:
        found = dict(given)
    except Exception as error:  # such as a closed npz file
        raise unreadable_mapping(f"the mapping given to {info.name}", error) from None
    invalid = [name for name in found if not isinstance(name, str)]
    if invalid:
        fix = "use strings as input names"
        raise InvalidRequest(*(Fault(f"{info.name} has no input {printable(name)}", fix=fix) for name in invalid))
    return found


def to_wire_shapes(info: ModelInfo, arrays: Arrays) -> Arrays:
    """Return inputs in the shapes that requests have."""
    return arrays if not info.sent else _reshaped(info, info.inputs, arrays, back=False)


def from_wire_shapes(info: ModelInfo, arrays: Arrays) -> Arrays:
    """Return the arrays of an answer in the model's own shapes.

    Raises:
        ServerError: The answer has other shapes than config.pbtxt declares.
    """
    return arrays if not info.sent else _reshaped(info, info.outputs, arrays, back=True)


def _reshaped(info: ModelInfo, specs: Iterable[TensorSpec], arrays: Arrays, *, back: bool) -> Arrays:
    found, axis = dict(arrays), int(info.batches)
    for spec in specs:
        if spec.name in arrays and spec.name in info.sent:
            array, pair = arrays[spec.name], (spec.shape, info.sent[spec.name])
            before, after = reversed(pair) if back else pair
            try:
                # Triton's rule: the open dims of both shapes stand for each other in their order
                sizes = [size for dim, size in zip(before, array.shape[axis:], strict=True) if dim == -1]
                shape = tuple(sizes.pop(0) if dim == -1 else dim for dim in after)
                found[spec.name] = array.reshape(array.shape[:axis] + shape)
            except (ValueError, IndexError) as error:
                raise unreadable_answer(info.name, error) from None
    return found


def check_call(
    info: ModelInfo, step: SequenceStep | None, args: Args, inputs: Inputs, *, sample: bool, allow_nan: bool
) -> Arrays:
    """Return the arrays of one call, checked; see `check_step`, and `check_sample` or else `check_batch`."""
    check_step(info, step)
    check = check_sample if sample else check_batch
    return check(info, named(info, args, inputs), allow_nan=allow_nan)


def sequence_step(sequence_id: Any, *, start: Any, end: Any) -> SequenceStep:
    """Return a `SequenceStep`.

    Raises:
        InvalidRequest: The id is invalid, or is missing where the sequence has other requests.
    """
    start, end = checked_flag("start", start), checked_flag("end", end)
    if sequence_id is None:
        if not (start and end):
            fix = "give the same id with every request of the sequence"
            raise InvalidRequest(Fault("a sequence of several requests needs an id", fix=fix))
        return SequenceStep(None, start, end)
    if isinstance(sequence_id, str) and sequence_id:
        if len(sequence_id.encode("utf-8", "replace")) <= _MAX_ID_BYTES and sequence_id.isprintable():
            return SequenceStep(sequence_id, start, end)
    elif not isinstance(sequence_id, (str, bool)) and 0 < (number := _integer(sequence_id)) <= _MAX_ID:
        return SequenceStep(number, start, end)
    fix = f"give a number from 1 to {_MAX_ID}, or text of at most {_MAX_ID_BYTES} bytes"
    raise InvalidRequest(Fault(f"{printable(sequence_id)} is not the id of a sequence", fix=fix))


def _integer(value: Any) -> int:
    """Return an integer, 0 for anything else; arrays of several have an ``__index__`` too, which raises."""
    try:
        return operator.index(value)
    except Exception:
        return 0


def check_step(info: ModelInfo, step: SequenceStep | None) -> None:
    """Refuse what the server would refuse or silently ignore.

    Raises:
        InvalidRequest: The model answers only sequences, does not support them, or is decoupled.
    """
    if info.decoupled:
        why, fix = "its model_transaction_policy is decoupled", "call it with tritonclient's streams"
        raise InvalidRequest(Fault(f"'{info.name}' may answer a request any number of times", why=why, fix=fix))
    if info.sequence and step is None:
        fix = "call model.sequence(id, start=..., end=...).infer_sample(...), or model.standalone() for sequences of one request"
        why = "its config.pbtxt has sequence_batching"
        raise InvalidRequest(Fault(f"'{info.name}' answers sequences", why=why, fix=fix))
    if step is not None and not info.sequence:
        why, fix = "its config.pbtxt has no sequence_batching", "call the client itself"
        raise InvalidRequest(Fault(f"'{info.name}' does not support sequences", why=why, fix=fix))


def check_batch(info: ModelInfo, inputs: Inputs, *, allow_nan: bool = False) -> Arrays:
    """Return contiguous arrays in the model's order, ``(samples, *shape)``, or ``shape`` without a batch axis, in the shapes of a request.

    Raises:
        InvalidRequest: With every name, type and shape that does not fit, before anything is sent.
    """
    faults = _name_faults(info, inputs)
    arrays: Arrays = {}
    for tensor in info.inputs:
        if tensor.name in inputs:
            array = as_array(info.name, tensor.name, inputs[tensor.name])
            found = _tensor_faults(info, tensor, array)
            if not found:
                array, found = sendable(info.name, tensor.name, array, allow_nan=allow_nan)
            faults += found
            arrays[tensor.name] = array
    if not faults and info.batches:
        sizes = {name: len(array) for name, array in arrays.items()}
        if len(set(sizes.values())) > 1:
            what, fix = f"{info.name}: inputs have different batch sizes", "give as many samples of each"
            faults.append(Fault(what, why=str(sizes), fix=fix))
        elif 0 in sizes.values():
            faults.append(Fault(f"{info.name}: the batch is empty", fix="send at least one sample"))
    if faults:
        raise InvalidRequest(*faults)
    return to_wire_shapes(info, arrays)


def check_sample(info: ModelInfo, inputs: Inputs, *, allow_nan: bool = False) -> Arrays:
    """Return a batch of one from a sample without a batch axis.

    Raises:
        InvalidRequest: It does not fit, or the model has no batch axis to add.
    """
    if not info.batches:
        why, fix = "its config.pbtxt has max_batch_size: 0", "call infer_batch with whole tensors"
        raise InvalidRequest(Fault(f"{info.name} has no batch axis", why=why, fix=fix))
    batched = {name: as_array(info.name, name, value)[None] for name, value in inputs.items()}
    wrong = [t for t in info.inputs if t.name in batched and shape_fits((-1, *t.shape), batched[t.name].shape[1:])]
    if wrong:
        what = f"{info.name}: infer_sample takes one sample without a batch axis"
        why = f"{wrong[0].name} has one axis too many"
        raise InvalidRequest(Fault(what, why=why, fix="call infer_batch, or take one sample out of the batch"))
    return check_batch(info, batched, allow_nan=allow_nan)


def _name_faults(info: ModelInfo, inputs: Inputs) -> list[Fault]:
    names = [tensor.name for tensor in info.inputs]
    faults = [
        Fault(f"{info.name} has no input '{n}'", fix=did_you_mean(str(n), names)) for n in inputs if n not in names
    ]
    for tensor in info.inputs:
        if tensor.name not in inputs:
            what, fix = f"{info.name}: input '{tensor.name}' is missing", f"pass {tensor.name}=..."
            faults.append(Fault(what, why=f"it is {tensor}", fix=fix))
    return faults


def _tensor_faults(info: ModelInfo, tensor: TensorSpec, array: Array) -> list[Fault]:
    faults, subject = [], f"{info.name}: input '{tensor.name}'"
    try:
        given = datatype_from_numpy(array.dtype)
    except KeyError:
        given = str(array.dtype)
    if given != tensor.datatype:
        why, fix = f"got {given} ({array.dtype})", f"{tensor.name}.astype('{tensor.numpy_dtype}')"
        faults.append(Fault(f"{subject} must be {tensor.datatype}", why=why, fix=fix))
    expected = (-1, *tensor.shape) if info.batches else tensor.shape
    if not shape_fits(expected, array.shape):
        fix = "give that shape; -1 is any size"
        if info.batches and shape_fits(tensor.shape, array.shape):
            fix = "add the batch axis (array[None]), or call infer_sample"
        faults.append(Fault(f"{subject} must have shape {list(expected)}", why=f"got {list(array.shape)}", fix=fix))
    return faults


def split(info: ModelInfo, arrays: Arrays, step: SequenceStep | None = None) -> Iterator[Chunk]:
    """Yield requests that the server accepts: at most `limit` samples each, a static batch padded by repeating.

    Raises:
        InvalidRequest: Several samples for one sequence.
    """
    step = step and step.with_id()
    if not info.batches:
        yield Chunk(arrays, 0, step)
        return
    total = len(next(iter(arrays.values())))
    if step and total > 1:
        fix = "call infer_sample once per sample, in order"
        raise InvalidRequest(Fault("a request of a sequence is one sample", why=f"got {total}", fix=fix))
    for start in range(0, total, info.limit):
        rows = min(info.limit, total - start)
        part = {name: array[start : start + rows] for name, array in arrays.items()}
        if info.fixed_batch and rows < info.fixed_batch:
            part = {name: np.resize(array, (info.fixed_batch, *array.shape[1:])) for name, array in part.items()}
        yield Chunk(part, rows, step)


def only_chunk(info: ModelInfo, arrays: Arrays, step: SequenceStep | None = None) -> Chunk:
    """Return the one request that holds all samples.

    Raises:
        InvalidRequest: They need several requests.
    """
    chunks = list(split(info, arrays, step))
    if len(chunks) > 1:
        why = f"the server takes {info.limit} samples at once"
        raise InvalidRequest(Fault("a prepared request must be one request", why=why, fix="prepare smaller batches"))
    return chunks[0]


def join(chunks: Sequence[Chunk], answers: Sequence[Arrays]) -> Arrays:
    """Return the answers of all chunks as one, without the rows that padded a static batch."""
    if len(chunks) == 1:
        rows = chunks[0].rows
        return {name: array[:rows] if rows else array for name, array in answers[0].items()}
    try:
        pairs = [(chunk.rows, answer) for chunk, answer in zip(chunks, answers, strict=True)]
        return {name: np.concatenate([answer[name][:rows] for rows, answer in pairs]) for name in answers[0]}
    except ValueError as error:
        what = "the answers of several requests do not fit together"
        fix = "send no more samples than the server takes in one request"
        raise ServerError(Fault(what, why=str(error), fix=fix)) from None
