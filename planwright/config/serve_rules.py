"""What Triton refuses, or passes over in silence, in fields of `serve` that it can read.

In      the mapping under ``serve``, the largest batch, a function that names a place in config.yaml.
Out     one fault per rule that is broken.

The rules are those of Triton's core (ValidateModelConfig in src/model_config_utils.cc, 24.10 to 26.06), and those that were
found on the server itself: it ends at a metric tag that is not a label, and at the first request to a model whose instances are
all passive.
What needs the engine's tensors is in `planwright.config.serve_warmup`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from planwright.config.serve_fields import Loc, Where, readable
from planwright.errors import Fault

Broken = tuple[Loc, str, str, str]  # place below serve, what, why, fix
_SHELL_SAFE = re.compile(r"[A-Za-z0-9._-]*")
_LABEL = re.compile(r"[A-Za-z0-9_]*")  # Triton writes an underscore before it
_DELAY = 1


def faults(serve: Mapping[str, Any], where: Where) -> list[Fault]:
    """Return the rules that `serve` breaks by itself."""
    config = readable(serve)
    rules = (_priorities, _ordering, _sequence, _instances, _resources, _metrics, _warm_up, _others)
    found = [broken for rule in rules for broken in rule(config)]
    return _located([*found, *_zero_counts(serve)], where)


def batch_faults(serve: Mapping[str, Any], max_batch: int, where: Where) -> list[Fault]:
    """Return the rules about batch sizes that `serve` breaks.

    Args:
        serve: The mapping under ``serve``.
        max_batch: Triton's max_batch_size; 0 where the engine takes one batch only, or has no batch axis.
        where: Names a place in config.yaml.
    """
    config = readable(serve)
    return _located((*_preferred(config, max_batch, where), *_warm_up_sizes(config, max_batch, where)), where)


def _located(found: Any, where: Where) -> list[Fault]:
    return [Fault(what, where("serve", *loc), why, fix) for loc, what, why, fix in found]


def _priorities(config: Any) -> Iterator[Broken]:
    batching, place = config.dynamic_batching, "dynamic_batching"
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        what = f"default_priority_level is {default}" if default else "priority_levels needs default_priority_level"
        key = "default_priority_level" if default else "priority_levels"
        yield (place, key), what, f"Triton takes 1 to {levels}", f"default_priority_level: {levels}"
    for level in sorted(batching.priority_queue_policy):
        if levels and not 1 <= level <= levels:
            yield ((place, "priority_queue_policy", str(level)), f"there is no priority level {level}",
                   f"priority_levels is {levels}", f"use 1 to {levels}")  # fmt: skip
    for key in ("default_priority_level", "priority_queue_policy"):
        if not levels and getattr(batching, key):
            yield (place, key), f"{key} has no effect", "priority_levels is not given", "add priority_levels"


def _ordering(config: Any) -> Iterator[Broken]:
    batching, place = config.dynamic_batching, "dynamic_batching"
    if not batching.preserve_ordering:
        return
    if batching.priority_levels > 1:
        yield ((place, "preserve_ordering"), "preserve_ordering allows one priority level only",
               f"priority_levels is {batching.priority_levels}", "remove one of them")  # fmt: skip
    policies: list[tuple[Loc, Any]] = [((place, "default_queue_policy"), batching.default_queue_policy)]
    policies += [
        ((place, "priority_queue_policy", str(key)), batching.priority_queue_policy[key])
        for key in batching.priority_queue_policy
    ]
    for loc, policy in policies:
        if policy.timeout_action == _DELAY and policy.default_timeout_microseconds:
            why = "a delayed request would be overtaken, which preserve_ordering excludes"
            yield (*loc, "timeout_action"), "timeout_action DELAY excludes preserve_ordering", why, "use REJECT"


def _sequence(config: Any) -> Iterator[Broken]:
    batcher, place = config.sequence_batching, "sequence_batching"
    for key, why in {
        "control_input": "it adds inputs to the model that golden samples do not have",
        "state": "answers would depend on the requests before, and golden samples are checked one by one",
        "iterative_sequence": "the backend would have to reschedule a request, and none here does",
    }.items():
        if getattr(batcher, key):
            yield (place, key), f"sequence_batching.{key} is not supported", why, "remove it"
    use = batcher.direct.minimum_slot_utilization
    if not 0 <= use <= 1:
        yield (
            (place, "direct", "minimum_slot_utilization"),
            f"minimum_slot_utilization is {use:g}",
            "Triton takes 0 to 1",
            "0.5",
        )
    if config.HasField("sequence_batching") and config.response_cache.enable:
        why = "an answer may depend on the sequence, so Triton caches none of them"
        yield ("response_cache",), "response_cache excludes sequence_batching", why, "remove one of them"


def _instances(config: Any) -> Iterator[Broken]:
    groups = config.instance_group
    for index, group in enumerate(groups):
        loc = ("instance_group", index)
        if group.count < 0:
            yield (*loc, "count"), f"count is {group.count}", "a model needs an instance that answers", "count: 1"
        if not _SHELL_SAFE.fullmatch(group.name):
            why = "the server hands it to a shell"
            yield (*loc, "name"), f"the name '{group.name}' is not safe", why, "use letters, digits, . _ -"
        for number, profile in enumerate(group.profile):
            if not profile.isdigit():
                why = "a profile is named by its number, as text"
                yield (*loc, "profile", number), f"there is no profile '{profile}'", why, 'profile: ["0"]'
        for number, gpu in enumerate(group.gpus):
            if gpu < 0:
                yield (*loc, "gpus", number), f"there is no GPU {gpu}", "GPUs are counted from 0", "gpus: [0]"
    if groups and all(group.passive for group in groups):
        why = "a passive instance gets no requests; the server ends at the first one"
        yield ("instance_group", 0, "passive"), "every instance is passive", why, "remove passive from one group"


def _zero_counts(serve: Mapping[str, Any]) -> Iterator[Broken]:
    """Find what the message cannot tell from a count that is not given."""
    groups = serve.get("instance_group")
    for index, group in enumerate(groups if isinstance(groups, list) else []):
        if isinstance(group, dict) and group.get("count") == 0:
            yield ("instance_group", index, "count"), "count is 0", "a model needs an instance that answers", "count: 1"


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
                why = "a resource belongs to one device or to all of them"
                yield loc, f"resource '{resource.name}' is global in one place only", why, "make both the same"


def _metrics(config: Any) -> Iterator[Broken]:
    for tag in sorted(config.metric_tags):
        if not _LABEL.fullmatch(tag):
            why = "the server ends when it registers a label with other signs"
            yield ("metric_tags", tag), f"'{tag}' cannot be a metric tag", why, "use letters, digits and _"
    for index, control in enumerate(config.model_metrics.metric_control):
        loc, buckets = ("model_metrics", "metric_control", index), list(control.histogram_options.buckets)
        if not control.metric_identifier.family:
            why = "Triton must know which metric it is about"
            yield loc, "metric_control has no family", why, "metric_identifier: {family: NAME}"
        if not buckets or buckets != sorted(set(buckets)):
            why = "Triton takes the upper bounds of a histogram, from low to high"
            yield loc, "metric_control has no ascending buckets", why, "histogram_options: {buckets: [10, 100]}"


def _warm_up(config: Any) -> Iterator[Broken]:
    """What is wrong with a warm-up whatever the engine's tensors are."""
    for index, sample in enumerate(config.model_warmup):
        loc = ("model_warmup", index)
        if not sample.batch_size:
            yield loc, "the warm-up has no batch_size", "Triton passes over a warm-up of batch 0", "batch_size: 1"
        for name in sorted(sample.inputs):
            item, place = sample.inputs[name], (*loc, "inputs", name)
            if not item.data_type:
                yield (
                    place,
                    f"warm-up input '{name}' has no data_type",
                    "Triton does not fill it in",
                    "data_type: TYPE_FP32",
                )
            if item.WhichOneof("input_data_type") is None:
                yield place, f"warm-up input '{name}' has no data", "Triton does not choose any", "zero_data: true"
            for number, size in enumerate(item.dims):
                if size < 0:
                    why = "a warm-up runs, so it needs a length where the model leaves one open"
                    yield (
                        (*place, "dims", number),
                        f"warm-up input '{name}' leaves an axis open",
                        why,
                        "give its length",
                    )


def _others(config: Any) -> Iterator[Broken]:
    if config.model_transaction_policy.decoupled:
        why = "such a model answers a request any number of times, and neither HTTP nor the clients here take that"
        yield ("model_transaction_policy", "decoupled"), "decoupled models are not supported", why, "remove it"
    for key in sorted(config.parameters):
        if key.startswith("planwright_"):
            why = "clients and reports read what a build writes there"
            yield ("parameters", key), f"the parameter '{key}' is Planwright's own", why, "choose another name"


def _preferred(config: Any, max_batch: int, where: Where) -> Iterator[Broken]:
    schedulers: dict[Loc, Any] = {
        ("dynamic_batching", "preferred_batch_size"): config.dynamic_batching.preferred_batch_size,
        ("sequence_batching", "oldest", "preferred_batch_size"): config.sequence_batching.oldest.preferred_batch_size,
    }
    for loc, sizes in schedulers.items():
        for size in sizes:
            if size < 1:
                yield loc, f"preferred_batch_size has {size}", "a batch has at least one sample", "remove it"
            elif size > max_batch and (
                max_batch or loc[0] == "sequence_batching"
            ):  # a batcher without batches is refused whole
                yield (loc, f"preferred_batch_size {size} is above max_batch_size {max_batch}", where("batch", "max"),
                       f"raise batch.max to {max(sizes)}, or prefer at most {max_batch}")  # fmt: skip


def _warm_up_sizes(config: Any, max_batch: int, where: Where) -> Iterator[Broken]:
    most = max(1, max_batch)
    for index, sample in enumerate(config.model_warmup):
        if sample.batch_size > most:
            yield (("model_warmup", index, "batch_size"), f"the warm-up's batch_size {sample.batch_size} is above {most}",
                   where("batch", "max") if max_batch else "each request is one run of the engine",
                   f"warm up with at most {most}")  # fmt: skip
