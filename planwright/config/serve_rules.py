"""What Triton rejects, or silently ignores, in fields of `serve` that it can read.

In      the mapping under ``serve``, the largest batch, the engine's inputs, a function that names a place in config.yaml.
Out     one fault per broken rule.

Sources: ValidateModelConfig in Triton core's src/model_config_utils.cc (24.10 to 26.06), GenerateWarmupData in
src/backend_model_instance.cc, and the server itself: it aborts on a metric tag that is not a valid label, and on the first
request to a model whose instances are all passive.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from planwright.config.serve_fields import Loc, Where, readable
from planwright.errors import Fault, did_you_mean
from planwright.tensors import TensorSpec, shape_fits

Broken = tuple[Loc, str, str, str]  # place below serve, what, why, fix
_SHELL_SAFE = re.compile(r"[A-Za-z0-9._-]*")
_LABEL = re.compile(r"[A-Za-z0-9_]*")  # Triton writes an underscore before it
_DELAY = 1


def faults(serve: Mapping[str, Any], where: Where) -> list[Fault]:
    """Return the rules that `serve` breaks whatever the model is."""
    config = readable(serve)
    rules = (_priorities, _ordering, _sequence, _instances, _resources, _metrics, _warm_ups, _others)
    return _located(
        [*(broken for rule in rules for broken in rule(config)), *_zero_counts(serve), *_reserved(serve)], where
    )


def batch_faults(serve: Mapping[str, Any], max_batch: int, where: Where) -> list[Fault]:
    """Return the rules about batch sizes that `serve` breaks.

    Args:
        serve: The mapping under ``serve``.
        max_batch: Triton's max_batch_size; 0 where the engine takes one batch only, or has no batch axis.
        where: Names a place in config.yaml.
    """
    config = readable(serve)
    return _located([*_preferred(config, max_batch, where), *_warm_up_sizes(config, max_batch, where)], where)


def input_faults(
    serve: Mapping[str, Any], inputs: Sequence[TensorSpec], folder: Path | None, where: Where
) -> list[Fault]:
    """Return what does not fit the engine's inputs.

    Args:
        serve: The mapping under ``serve``.
        inputs: As config.pbtxt declares them: without the batch axis where Triton adds it.
        folder: The model's folder, in which Triton looks for a warm-up's files; None where it is not known yet.
        where: Names a place in config.yaml.
    """
    config = readable(serve)
    return _located([*_warm_up_inputs(config, inputs, folder), *_graphs(config, inputs)], where)


def refers_to_inputs(serve: Mapping[str, Any]) -> bool:
    """Return whether `input_faults` has anything to check."""
    config = readable(serve)
    return bool(config.model_warmup or config.optimization.cuda.graph_spec)


def _located(found: Iterable[Broken], where: Where) -> list[Fault]:
    return [Fault(what, where("serve", *loc), why, fix) for loc, what, why, fix in found]


def _priorities(config: Any) -> Iterator[Broken]:
    batching, place = config.dynamic_batching, "dynamic_batching"
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        what = f"default_priority_level is {default}" if default else "priority_levels needs default_priority_level"
        key = "default_priority_level" if default else "priority_levels"
        yield (place, key), what, f"Triton accepts 1 to {levels}", f"default_priority_level: {levels}"
    for level in sorted(batching.priority_queue_policy):
        if levels and not 1 <= level <= levels:
            loc, why = (place, "priority_queue_policy", str(level)), f"priority_levels is {levels}"
            yield loc, f"there is no priority level {level}", why, f"use 1 to {levels}"
    for key in ("default_priority_level", "priority_queue_policy"):
        if not levels and getattr(batching, key):
            yield (place, key), f"{key} has no effect", "priority_levels is not given", "add priority_levels"


def _ordering(config: Any) -> Iterator[Broken]:
    batching, place = config.dynamic_batching, "dynamic_batching"
    if not batching.preserve_ordering:
        return
    if batching.priority_levels > 1:
        what, why = "preserve_ordering allows only one priority level", f"priority_levels is {batching.priority_levels}"
        yield (place, "preserve_ordering"), what, why, "remove one of them"
    by_level = batching.priority_queue_policy
    policies: list[tuple[Loc, Any]] = [((place, "default_queue_policy"), batching.default_queue_policy)]
    policies += [((place, "priority_queue_policy", str(level)), by_level[level]) for level in by_level]
    for loc, policy in policies:
        if policy.timeout_action == _DELAY and policy.default_timeout_microseconds:
            why = "later requests would overtake a delayed one"
            yield (*loc, "timeout_action"), "timeout_action DELAY contradicts preserve_ordering", why, "use REJECT"


def _sequence(config: Any) -> Iterator[Broken]:
    batcher, place = config.sequence_batching, "sequence_batching"
    for key, why in {
        "control_input": "it adds inputs to the model that golden samples do not have",
        "state": "answers would depend on earlier requests, and golden samples are checked one by one",
        "iterative_sequence": "the backend would have to reschedule a request, and no backend here does",
    }.items():
        if getattr(batcher, key):
            yield (place, key), f"sequence_batching.{key} is not supported", why, "remove it"
    use = batcher.direct.minimum_slot_utilization
    if not 0 <= use <= 1:
        loc = (place, "direct", "minimum_slot_utilization")
        yield loc, f"minimum_slot_utilization is {use:g}", "Triton accepts 0 to 1", "0.5"
    if config.HasField("sequence_batching") and config.response_cache.enable:
        why = "an answer may depend on the sequence, so Triton caches none of them"
        yield ("response_cache",), "response_cache contradicts sequence_batching", why, "remove one of them"


def _instances(config: Any) -> Iterator[Broken]:
    groups = config.instance_group
    for index, group in enumerate(groups):
        loc = ("instance_group", index)
        if group.count < 0:
            yield (*loc, "count"), f"count is {group.count}", "a model needs at least one instance", "count: 1"
        if not _SHELL_SAFE.fullmatch(group.name):
            what, why = f"the name '{group.name}' contains unsafe characters", "the server uses it in a shell command"
            yield (*loc, "name"), what, why, "use letters, digits, . _ -"
        for number, profile in enumerate(group.profile):
            if not profile.isdigit():
                why = "a profile is given by its number, as a string"
                yield (*loc, "profile", number), f"there is no profile '{profile}'", why, 'profile: ["0"]'
        for number, gpu in enumerate(group.gpus):
            if gpu < 0:
                yield (*loc, "gpus", number), f"there is no GPU {gpu}", "GPUs are counted from 0", "gpus: [0]"
    if groups and all(group.passive for group in groups):
        why = "a passive instance gets no requests; the server aborts on the first one"
        yield ("instance_group", 0, "passive"), "every instance is passive", why, "remove passive from one group"


def _zero_counts(serve: Mapping[str, Any]) -> Iterator[Broken]:
    """Find explicit zeros, which the message cannot distinguish from a count that is not given."""
    groups = serve.get("instance_group")
    for index, group in enumerate(groups if isinstance(groups, list) else []):
        if isinstance(group, dict) and group.get("count") == 0:
            yield ("instance_group", index, "count"), "count is 0", "a model needs at least one instance", "count: 1"


def _resources(config: Any) -> Iterator[Broken]:
    scope: dict[str, bool] = {}
    for index, group in enumerate(config.instance_group):
        for number, resource in enumerate(group.rate_limiter.resources):
            loc = ("instance_group", index, "rate_limiter", "resources", number)
            if not resource.name:
                yield loc, "a resource has no name", "instances share a resource by its name", "name: R1"
            if not resource.count:
                yield loc, f"resource '{resource.name}' has no count", "an instance waits for that many", "count: 1"
            if scope.setdefault(resource.name, getattr(resource, "global")) != getattr(resource, "global"):
                what, why = f"resource '{resource.name}' is both global and per device", "Triton accepts one of them"
                yield loc, what, why, "give 'global' the same value everywhere"


def _metrics(config: Any) -> Iterator[Broken]:
    for tag in sorted(config.metric_tags):
        if not _LABEL.fullmatch(tag):
            why = "the server aborts when it registers a label with other characters"
            yield ("metric_tags", tag), f"'{tag}' cannot be a metric tag", why, "use letters, digits and _"
    for index, control in enumerate(config.model_metrics.metric_control):
        loc, buckets = ("model_metrics", "metric_control", index), list(control.histogram_options.buckets)
        if not control.metric_identifier.family:
            why = "Triton must know which metric it applies to"
            yield loc, "metric_control has no family", why, "metric_identifier: {family: NAME}"
        if not buckets or buckets != sorted(set(buckets)):
            why = "Triton expects the upper bounds of a histogram, in ascending order"
            yield loc, "metric_control has no ascending buckets", why, "histogram_options: {buckets: [10, 100]}"


def _others(config: Any) -> Iterator[Broken]:
    if config.model_transaction_policy.decoupled:
        why = "such a model may send any number of answers to a request, which HTTP and the clients here do not support"
        yield ("model_transaction_policy", "decoupled"), "decoupled models are not supported", why, "remove it"


def _reserved(serve: Mapping[str, Any]) -> Iterator[Broken]:
    """Find reserved names whatever the type of their values, which `serve_fields` leaves unchecked."""
    parameters = serve.get("parameters")
    for key in sorted(map(str, parameters)) if isinstance(parameters, dict) else ():
        if key.startswith("planwright_"):
            why = "clients and reports read what a build writes there"
            yield ("parameters", key), f"the parameter '{key}' is reserved for Planwright", why, "choose another name"


def _preferred(config: Any, max_batch: int, where: Where) -> Iterator[Broken]:
    schedulers: dict[Loc, Any] = {
        ("dynamic_batching", "preferred_batch_size"): config.dynamic_batching.preferred_batch_size,
        ("sequence_batching", "oldest", "preferred_batch_size"): config.sequence_batching.oldest.preferred_batch_size,
    }
    for loc, sizes in schedulers.items():
        # without a largest batch, dynamic_batching as a whole is an error already
        limited = max_batch or loc[0] == "sequence_batching"
        for size in sizes:
            if size < 1:
                yield loc, f"preferred_batch_size has {size}", "a batch has at least one sample", "remove it"
            elif limited and size > max_batch:
                what = f"preferred_batch_size {size} is above max_batch_size {max_batch}"
                fix = f"raise batch.max to {max(sizes)}, or prefer at most {max_batch}"
                yield loc, what, where("batch", "max"), fix


def _warm_up_sizes(config: Any, max_batch: int, where: Where) -> Iterator[Broken]:
    most = max(1, max_batch)
    for index, sample in enumerate(config.model_warmup):
        if sample.batch_size > most:
            what = f"the warm-up's batch_size {sample.batch_size} is above {most}"
            why = where("batch", "max") if max_batch else "each request is one run of the engine"
            yield ("model_warmup", index, "batch_size"), what, why, f"warm up with at most {most}"


def _warm_ups(config: Any) -> Iterator[Broken]:
    """Check a warm-up as far as that is possible without the engine's inputs."""
    for index, sample in enumerate(config.model_warmup):
        loc = ("model_warmup", index)
        if not sample.batch_size:
            yield loc, "the warm-up has no batch_size", "Triton skips a warm-up of batch 0", "batch_size: 1"
        for name in sorted(sample.inputs):
            item, place = sample.inputs[name], (*loc, "inputs", name)
            what = f"warm-up input '{name}' has no"
            if not item.data_type:
                yield place, f"{what} data_type", "Triton does not fill it in", "data_type: TYPE_FP32"
            if item.WhichOneof("input_data_type") is None:
                yield place, f"{what} data", "Triton does not choose any", "zero_data: true"
            for number, size in enumerate(item.dims):
                if size < 0:
                    why = "a warm-up runs the model, so an axis that the model leaves open needs a length"
                    yield (*place, "dims", number), f"{what} length for an open axis", why, "give its length"


def _warm_up_inputs(config: Any, inputs: Sequence[TensorSpec], folder: Path | None) -> Iterator[Broken]:
    known = {tensor.name: tensor for tensor in inputs}
    for index, sample in enumerate(config.model_warmup):
        loc: Loc = ("model_warmup", index, "inputs")
        for name in sorted(sample.inputs):
            if name not in known:
                why = f"the model has {', '.join(map(str, inputs))}"
                yield (*loc, name), f"the model has no input '{name}' to warm up", why, did_you_mean(name, known)
            else:
                yield from _warm_up_tensor(sample.inputs[name], known[name], (*loc, name))
                yield from _warm_up_file(sample.inputs[name], known[name], (*loc, name), folder)
        missing = [tensor for name, tensor in known.items() if name not in sample.inputs]
        if missing:
            why = f"the model needs {', '.join(map(str, missing))}"
            yield loc, f"the warm-up lacks input '{missing[0].name}'", why, _example(missing[0])


def _warm_up_tensor(item: Any, tensor: TensorSpec, loc: Loc) -> Iterator[Broken]:
    from tritonclient.grpc import model_config_pb2

    given = model_config_pb2.DataType.Name(item.data_type)
    if item.data_type and given != tensor.config_type:
        what, fix = f"warm-up input '{tensor.name}' is {given}", f"data_type: {tensor.config_type}"
        yield (*loc, "data_type"), what, f"the model has {tensor}", fix
    dims = tuple(item.dims)
    if any(size < 0 for size in dims) or shape_fits(tensor.shape, dims):  # `_warm_ups` reports an open axis
        return
    batch = len(dims) == len(tensor.shape) + 1
    note = "; batch_size is the number of samples, so dims has no batch axis" if batch else ""
    what, why = f"warm-up input '{tensor.name}' has dims {list(dims)}", f"the model has {tensor}{note}"
    yield (*loc, "dims"), what, why, _example(tensor)


def _example(tensor: TensorSpec) -> str:
    dims = ", ".join(str(size) if size > 0 else "LENGTH" for size in tensor.shape)
    return f"{tensor.name}: {{data_type: {tensor.config_type}, dims: [{dims}], zero_data: true}}"


def _warm_up_file(item: Any, tensor: TensorSpec, loc: Loc, folder: Path | None) -> Iterator[Broken]:
    """Check the file that Triton would read: raw bytes of one sample."""
    if folder is None or item.WhichOneof("input_data_type") != "input_data_file":
        return
    path, place = folder / "warmup" / item.input_data_file, (*loc, "input_data_file")
    if not path.is_file():
        why, fix = "Triton reads the data of a warm-up there", "put it there, or use zero_data: true"
        yield place, f"there is no file {path}", why, fix
        return
    need = math.prod(item.dims) * tensor.numpy_dtype.itemsize
    if tensor.datatype != "BYTES" and path.stat().st_size < need:
        why = f"{path} has {path.stat().st_size} bytes, a sample of {list(item.dims)} needs {need}"
        yield place, f"warm-up input '{tensor.name}' has too little data", why, "write the whole sample"


def _graphs(config: Any, inputs: Sequence[TensorSpec]) -> Iterator[Broken]:
    known = [tensor.name for tensor in inputs]
    why = f"the model has {', '.join(known)}"
    for index, spec in enumerate(config.optimization.cuda.graph_spec):
        loc: Loc = ("optimization", "cuda", "graph_spec", index)
        for place, part in ((loc, spec), ((*loc, "graph_lower_bound"), spec.graph_lower_bound)):
            for name in sorted(set(part.input) - set(known)):
                yield (*place, "input", name), f"the CUDA graph has an input '{name}'", why, did_you_mean(name, known)
