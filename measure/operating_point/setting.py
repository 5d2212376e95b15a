"""One point of a sweep or a tune: how the model is served, in Triton's own fields.

In      a model's config as the server reports it, the published build.json.
Out     `ServingSetting`; the config that applies it; the batch sizes that the engine's profiles are tuned for.

A server that is given no preferred sizes writes ``[max_batch_size]`` into its own config. That is no choice of the user, and the server would
refuse it with a lower max_batch_size, so it is read as "none".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from planwright.errors import Fault, SpecError

Config = dict[str, Any]


@dataclass(frozen=True)
class ServingSetting:
    """How a model is served.

    Attributes:
        instances: ``instance_group.count``.
        max_batch: ``max_batch_size``.
        delay_us: ``dynamic_batching.max_queue_delay_microseconds``; None for no dynamic batcher.
        preferred: ``dynamic_batching.preferred_batch_size``; empty for none.
        graphs: ``optimization.cuda.graphs``.
        sequences: Whether the model has ``sequence_batching``, beside which there is no dynamic batcher; never chosen.
    """

    instances: int
    max_batch: int
    delay_us: int | None
    preferred: tuple[int, ...] = ()
    graphs: bool = False
    sequences: bool = False

    @property
    def label(self) -> str:
        batching = "no batcher" if self.delay_us is None else f"delay {self.delay_us} µs"
        batching = "sequences" if self.sequences else batching
        sizes = f" preferred {'+'.join(map(str, self.preferred))}" if self.preferred else ""
        graphs = " graphs" if self.graphs else ""
        return f"{self.instances} inst · max {self.max_batch} · {batching}{sizes}{graphs}"

    def fields(self) -> Config:
        """Return the setting in Triton's field names; a dynamic_batching of None is no batcher."""
        batching: Config | None = None if self.delay_us is None else {"max_queue_delay_microseconds": self.delay_us}
        if batching is not None and self.preferred:
            batching = {"preferred_batch_size": list(self.preferred), **batching}
        found: Config = {
            "instance_group": [{"count": self.instances}],
            "max_batch_size": self.max_batch,
            "dynamic_batching": batching,
        }
        return {**found, "optimization": {"cuda": {"graphs": True}}} if self.graphs else found


def setting_of(config: Mapping[str, Any]) -> ServingSetting:
    batching, largest = config.get("dynamic_batching"), int(config.get("max_batch_size", 0))
    preferred = tuple(int(size) for size in (batching or {}).get("preferred_batch_size", []))
    return ServingSetting(
        instances=sum(int(group.get("count", 1)) for group in config.get("instance_group", [])),
        max_batch=largest,
        delay_us=None if batching is None else int(batching.get("max_queue_delay_microseconds", 0)),
        preferred=preferable(preferred, largest),
        graphs=bool(config.get("optimization", {}).get("cuda", {}).get("graphs", False)),
        sequences=config.get("sequence_batching") is not None,
    )


def preferable(sizes: Iterable[int], largest: int) -> tuple[int, ...]:
    """Return the preferred sizes that matter beside `max_batch_size`.

    A server refuses those above it, and prefers `max_batch_size` itself by default.

    >>> preferable((4, 8, 16), 8), preferable((8,), 8)
    ((4, 8), ())
    """
    kept = tuple(size for size in sizes if size <= largest)
    return () if kept == (largest,) else kept


def configured(base: Config, setting: ServingSetting) -> Config:
    """Return `base` with `setting` applied; what a setting does not cover stays as published."""
    config = {**base, "max_batch_size": setting.max_batch}
    if setting.instances != setting_of(base).instances:
        config["instance_group"] = [{**group, "count": setting.instances} for group in base["instance_group"][:1]]
    config.pop("dynamic_batching", None)
    if setting.delay_us is not None:
        kept = {key: value for key, value in base.get("dynamic_batching", {}).items() if key != "preferred_batch_size"}
        config["dynamic_batching"] = {**kept, "max_queue_delay_microseconds": setting.delay_us}
        if setting.preferred:
            config["dynamic_batching"]["preferred_batch_size"] = list(setting.preferred)
    if setting.graphs != setting_of(base).graphs:
        old = base.get("optimization", {})
        config["optimization"] = {**old, "cuda": {**old.get("cuda", {}), "graphs": setting.graphs}}
    return config


def untuned(base: Config) -> Config:
    """Return `base` without instances and batching, for which Triton then uses its defaults.

    KIND_GPU is kept where the model needs it, because Triton would choose the CPU for a Python-based backend.
    """
    others = {key: value for key, value in base.items() if key not in ("instance_group", "dynamic_batching")}
    needs_gpu = any(group.get("kind") == "KIND_GPU" for group in base.get("instance_group", []))
    return {**others, "instance_group": [{"kind": "KIND_GPU"}]} if needs_gpu else others


def grid(
    published: ServingSetting,
    instances: Iterable[int] = (),
    max_batches: Iterable[int] = (),
    delays_us: Iterable[int | None] = (),
    preferred: Iterable[tuple[int, ...]] = (),
    graphs: Iterable[bool] = (),
) -> list[ServingSetting]:
    """Return every combination that a server accepts, each once; an axis that is not given stays as published.

    Instances vary fastest: changing only them needs no reload of the model.
    """
    found: dict[ServingSetting, None] = {}
    for largest in tuple(max_batches) or (published.max_batch,):
        for delay_us in tuple(delays_us) or (published.delay_us,):
            for sizes in tuple(preferred) or (published.preferred,):
                kept = () if delay_us is None else preferable(sizes, largest)  # without a batcher they mean nothing
                for graph in tuple(graphs) or (published.graphs,):
                    for count in tuple(instances) or (published.instances,):
                        found[ServingSetting(count, largest, delay_us, kept, graph, published.sequences)] = None
    return list(found)


def check(settings: Iterable[ServingSetting], published: ServingSetting, build: Mapping[str, Any], batch: int) -> None:
    """Refuse what this model cannot be served with, all at once.

    Raises:
        SpecError: A batch size above the published one, batching of a fixed batch, CUDA graphs without CUDA (exit 2).
    """
    wanted, faults = list(settings), []
    high = max((setting.max_batch for setting in wanted), default=0)
    low = min((setting.max_batch for setting in wanted), default=0)
    if published.max_batch == 0 and any(s.max_batch or s.delay_us is not None for s in wanted):
        faults.append(Fault("this model accepts one batch size only, so the server cannot batch", "max_batch_size: 0",
                            fix="omit --max-batch, --queue-delay-us and --preferred"))  # fmt: skip
    elif high > published.max_batch:
        why = "the engine was built for batches up to that size; it can only be lowered here"
        faults.append(Fault(f"--max-batch {high} is above the published max_batch_size {published.max_batch}", why=why,
                            fix=f"--max-batch {published.max_batch}, or raise batch.max in config.yaml and build again"))  # fmt: skip
    elif batch > max(low, 1):
        faults.append(Fault(f"--batch {batch} is above the max_batch_size {low} of a point", fix=f"--batch {max(low, 1)}"))  # fmt: skip
    if published.sequences and any(s.delay_us is not None for s in wanted):
        what = "this model has sequence_batching, which excludes a dynamic batcher"
        faults.append(Fault(what, fix="omit --queue-delay-us and --preferred"))
    if any(setting.graphs for setting in wanted) and build.get("target") != "tensorrt":
        faults.append(Fault(f"the {build.get('target')} target has no CUDA graphs", fix="omit --cuda-graphs"))
    if faults:
        raise SpecError(*faults)


def best_batches(build: Mapping[str, Any]) -> tuple[list[int], str]:
    """Return (batch sizes that the engine's profiles are tuned for, why there are none)."""
    if build.get("target") != "tensorrt":
        return [], f"the {build.get('target')} target has no optimization profile"
    spec = build.get("stages", {}).get("compile", {}).get("spec", {})
    given = [int(shape["opt"][0]) for profile in spec.get("compile", {}).get("profiles") or [] for shape in profile.values()]  # fmt: skip
    found = sorted(set(given)) or [int(bound) for bound in spec.get("bounds", [])[1:2]]
    return found, "" if found else "build.json does not say what the profile is tuned for"


def off_best(batches: Iterable[Mapping[str, Any]], best: Iterable[int]) -> float | None:
    """Return the share of executions with a batch size not in `best`; None where there is nothing to compare."""
    rows, sizes = list(batches), set(best)
    total = sum(row["count"] for row in rows)
    if not total or not sizes:
        return None
    return float(sum(row["count"] for row in rows if row["size"] not in sizes) / total)
