"""What the server itself counted during a run: Triton's statistics, read at its start, every few seconds and at its end.

In      addresses.
Out     `Counters`: what was counted between the first reading and the last, as a JSON value per model, or why it cannot be read.

Statistics belong to a version of a model for as long as it is loaded: another load of it begins at zero, and what it had counted
before is gone. So each version of a model is followed on its own, and versions that were loaded or unloaded are named. The counters are also
read during the run, because after another load they may have passed their old values by its end. Errors are counted at the client,
because those of a Python-based backend count as successes here; only differences are used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from measure.workload.settings import Settings
from planwright.triton_admin import Document, RefusedError, TritonAdmin

TIMES = ("queue", "compute_input", "compute_infer", "compute_output")
COUNTS = ("requests", "failures", "inferences", "executions")
EVERY_S = 2.0  # between readings while the load goes on: one costs about a millisecond
SETTLE_S, AGAIN_S = 1.0, 0.1  # a server counts an answer shortly after it has sent it
TIMEOUT_S = 10.0
# what a server that is gone, or something else that listens there, can make of a request
UNREADABLE = (RefusedError, OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
Read = TypeVar("Read")


@dataclass(frozen=True)
class VersionCounters:
    """Counters of one version of a model since it was loaded: counts and µs by name; batch size → (count, µs of computing)."""

    counts: Mapping[str, float]
    batches: Mapping[int, tuple[int, int]]

    def since(self, before: VersionCounters) -> VersionCounters | None:
        """Return what came after `before`; None where the version was loaded again meanwhile."""
        if any(value < before.counts[name] for name, value in self.counts.items()):
            return None
        counts = {name: value - before.counts[name] for name, value in self.counts.items()}
        batches = {size: _minus(found, before.batches.get(size, (0, 0))) for size, found in self.batches.items()}
        return VersionCounters(counts, batches)

    def plus(self, other: VersionCounters) -> VersionCounters:
        counts = {name: value + other.counts[name] for name, value in self.counts.items()}
        batches = dict(self.batches)
        for size, (count, total_us) in other.batches.items():
            known = batches.get(size, (0, 0))
            batches[size] = (known[0] + count, known[1] + total_us)
        return VersionCounters(counts, batches)


@dataclass(frozen=True)
class Snapshot:
    """Counters of one instant.

    Attributes:
        series: Model → version → counters; no version for a model that is not loaded.
        instances: Model → number of instances.
        source: ``HTTP`` or ``gRPC``.
    """

    series: dict[str, dict[str, VersionCounters]]
    instances: dict[str, int] = field(default_factory=dict)
    source: str = "HTTP"

    def newest(self, model: str) -> str:
        """Return the newest version that is loaded; empty where none is."""
        return max(self.series.get(model, {}), key=int, default="")


class Api(Protocol):
    """What a server says of itself over one protocol, as JSON documents; what cannot be read raises one of `UNREADABLE`."""

    name: str

    def metadata(self) -> Document:
        """Return the server's name and version."""

    def statistics(self) -> Document:
        """Return ``model_stats``: all versions of all models that are loaded."""

    def config(self, model: str) -> Document:
        """Return the config of a model that is loaded."""

    def close(self) -> None:
        """Close the connection."""


class Grpc:
    """`Api` for a server whose HTTP does not answer; `TritonAdmin` is the one over HTTP."""

    name = "gRPC"

    def __init__(self, url: str) -> None:
        from tritonclient.grpc import InferenceServerClient

        self._client = InferenceServerClient(url.partition("://")[2] or url, ssl=url.startswith("grpcs://"))

    def metadata(self) -> Document:
        return self._call("get_server_metadata")

    def statistics(self) -> Document:
        return self._call("get_inference_statistics")

    def config(self, model: str) -> Document:
        return dict(self._call("get_model_config", model)["config"])

    def close(self) -> None:
        """Close the channel, which would keep the process from ending."""
        self._client.close()

    def _call(self, method: str, *model: str) -> Document:
        from tritonclient.utils import InferenceServerException

        try:
            document: Document = getattr(self._client, method)(*model, as_json=True, client_timeout=TIMEOUT_S)
        except InferenceServerException as error:
            raise ConnectionError(str(error)) from None
        return document


@dataclass(frozen=True)
class Server:
    """Where a server is; HTTP is tried first, then gRPC."""

    http_url: str
    grpc_url: str

    def snapshot(self, models: Iterable[str], *, configs: bool = True) -> tuple[Snapshot | None, str]:
        """Return all counters and an empty text, or None and why they cannot be read; `configs` for `Snapshot.instances`."""
        names = list(models)
        return self._first(lambda api: _snapshot(api, names, configs=configs))

    def identity(self) -> dict[str, Any]:
        """Return the server's name and version; empty where it does not answer."""
        found, _ = self._first(lambda api: api.metadata())
        return {key: str(found.get(key, "")) for key in ("name", "version")} if found else {}

    def _first(self, read: Callable[[Api], Read]) -> tuple[Read | None, str]:
        failed = []
        for kind, url in ((TritonAdmin, self.http_url), (Grpc, self.grpc_url)):
            api: Api = kind(url)
            try:
                return read(api), ""
            except UNREADABLE as error:
                failed.append(f"{api.name} at {url}: {error or type(error).__name__}")
            finally:
                api.close()
        return None, "; ".join(failed)


class Tally:
    """What was counted since the first of several snapshots."""

    def __init__(self, first: Snapshot) -> None:
        self._last, self._instances = first, dict(first.instances)
        self._sums: dict[str, dict[str, VersionCounters]] = {model: {} for model in first.series}
        self._changes: dict[str, list[str]] = {model: [] for model in first.series}

    def add(self, snapshot: Snapshot) -> None:
        for model, versions in snapshot.series.items():
            before = self._last.series[model]
            self._changes[model] += [f"version {gone} was unloaded" for gone in before if gone not in versions]
            for version, series in versions.items():
                part = series.since(before[version]) if version in before else None
                if part is None:
                    again = " again" if version in before or version in self._sums[model] else ""
                    self._changes[model].append(f"version {version} was loaded{again}")
                known = self._sums[model].get(version)
                self._sums[model][version] = known.plus(part or series) if known else part or series
        self._last = snapshot
        self._instances.update(snapshot.instances)

    def requests(self, model: str) -> int:
        """Return how many answers were counted; a part of them where the model changed meanwhile."""
        return int(sum(series.counts["requests"] for series in self._sums[model].values()))

    def changed(self, model: str) -> bool:
        """True where a version was loaded or unloaded meanwhile."""
        return bool(self._changes[model])

    def figures(self, load_s: float) -> dict[str, Any]:
        """Return the counters per model; times are means per request. The load took `load_s`."""
        return {model: self._figures(model, load_s) for model in self._sums}

    def _figures(self, model: str, load_s: float) -> dict[str, Any]:
        sums, instances = self._sums[model], max(self._instances.get(model, 1), 1)
        answered = [version for version, series in sums.items() if series.counts["requests"]]
        changes = list(dict.fromkeys(self._changes[model]))
        about = {"instances": instances, "versions": sorted(answered, key=int), "changes": changes}
        return {**_means(list(sums.values()), load_s * instances), **about}


@dataclass(frozen=True)
class Counted:
    """The server's counters of a run.

    Attributes:
        models: See `Tally.figures`; empty where the counters cannot be read.
        versions: Model → the newest version that is served.
        note: Why something is missing.
        lost: True where the server answered at the start and not at the end.
    """

    models: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    note: str = ""
    lost: bool = False


class Counters:
    def __init__(self, settings: Settings) -> None:
        self.server = Server(settings.http_url, settings.grpc_url)
        self._names = [name for name, _ in settings.models]
        self._tally: Tally | None = None
        self._note = ""

    def begin(self) -> None:
        first, why = self.server.snapshot(self._names)
        self._tally = Tally(first) if first else None
        self._note = "" if first else f"the server's counters cannot be read: {why}"

    def follow(self) -> None:
        """Read them every `EVERY_S`; a greenlet that the run kills."""
        while self._tally is not None:
            time.sleep(EVERY_S)
            snapshot, _ = self.server.snapshot(self._names, configs=False)
            if snapshot is not None:
                self._tally.add(snapshot)

    def end(self, load_s: float, answers: Mapping[str, int]) -> Counted:
        """Read them for the last time; `answers` is what the client counted of each model in `load_s` seconds."""
        deadline_s, tally = time.monotonic() + SETTLE_S, self._tally
        while True:
            last, _ = self.server.snapshot(self._names)
            versions = {name: last.newest(name) for name in self._names} if last else {}
            if tally is None or last is None:
                return Counted(versions=versions, note=self._note, lost=tally is not None)
            tally.add(last)
            unchanged = [name for name in self._names if not tally.changed(name)]
            behind = any(tally.requests(name) < answers.get(name, 0) for name in unchanged)
            if not behind or time.monotonic() > deadline_s:
                return Counted(tally.figures(load_s), versions)
            time.sleep(AGAIN_S)


def _minus(now: tuple[int, int], before: tuple[int, int]) -> tuple[int, int]:
    return now[0] - before[0], now[1] - before[1]


def _means(series: list[VersionCounters], capacity_s: float) -> dict[str, Any]:
    """Return sums and means; `capacity_s` is the time that all instances had."""
    none = dict.fromkeys((*COUNTS, "request_us", *(f"{name}_us" for name in TIMES)), 0.0)
    total = VersionCounters(none, {})
    for each in series:
        total = total.plus(each)
    requests, executions = max(total.counts["requests"], 1.0), max(total.counts["executions"], 1.0)
    rows = [
        {"size": size, "count": count, "mean_infer_us": total_us / count}
        for size, (count, total_us) in sorted(total.batches.items())
        if count > 0
    ]
    computed_s = sum(total_us for _, total_us in total.batches.values()) / 1e6
    return {
        **{name: int(total.counts[name]) for name in COUNTS},
        **{f"mean_{name}": value / requests for name, value in total.counts.items() if name.endswith("_us")},
        "busy_share": round(min(computed_s / max(capacity_s, 1e-9), 1.0), 4),
        "mean_batch": total.counts["inferences"] / executions,
        "batches": rows,
    }


def _snapshot(api: Api, models: list[str], *, configs: bool) -> Snapshot:
    series: dict[str, dict[str, VersionCounters]] = {model: {} for model in models}
    for found in api.statistics()["model_stats"]:
        if found["name"] in series:
            series[found["name"]][str(found["version"])] = _series(found)
    found_configs = {model: api.config(model) for model in models if configs and series[model]}
    instances = {m: sum(int(g.get("count", 1)) for g in c.get("instance_group", [])) for m, c in found_configs.items()}
    return Snapshot(series, instances, api.name)


def _series(found: Document) -> VersionCounters:
    """Read one version; over gRPC numbers are text, and zeros are left out."""
    stats = found.get("inference_stats", {})
    success, failed = stats.get("success", {}), stats.get("fail", {})
    counts: dict[str, float] = {
        "requests": int(success.get("count", 0)), "failures": int(failed.get("count", 0)),
        "inferences": int(found.get("inference_count", 0)), "executions": int(found.get("execution_count", 0)),
        "request_us": int(success.get("ns", 0)) / 1e3, **{f"{t}_us": int(stats.get(t, {}).get("ns", 0)) / 1e3 for t in TIMES},
    }  # fmt: skip
    batches = {}
    for row in found.get("batch_stats", []):
        infer = row.get("compute_infer", {})
        batches[int(row["batch_size"])] = (int(infer.get("count", 0)), int(infer.get("ns", 0)) // 1000)
    return VersionCounters(counts, batches)
