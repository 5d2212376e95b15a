"""Every latency of a run, at full resolution, from any number of processes.

In      one call per request.
Out     `Track` per model and protocol: an HdrHistogram (3 digits from 1 µs to an hour), a row per second, errors.

locust's own numbers are rounded (1 ms below 100 ms), so they are not used. A worker's record travels to the master with
locust's own reports and is merged there without loss.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hdrh.histogram import HdrHistogram

LOWEST_US, HIGHEST_US, DIGITS = 1, 3_600_000_000, 3


def histogram() -> Any:
    """Return an empty histogram."""
    return HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)


@dataclass
class Track:
    """What happened to one model over one protocol.

    Attributes:
        latencies: Of successful requests that started after the warm-up, in µs.
        seconds: Second since the start → latencies in µs (rounded to 3 digits) → count; warm-up included.
        requests, failures, wrong, checked: Counts over the whole run.
        measured, measured_failures: Requests after the warm-up.
        errors: Text → count.
    """

    latencies: Any = field(default_factory=histogram)
    seconds: dict[int, Counter[int]] = field(default_factory=dict)
    failed_seconds: Counter[int] = field(default_factory=Counter)
    requests: int = 0
    failures: int = 0
    wrong: int = 0
    checked: int = 0
    measured: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def encode(self) -> dict[str, Any]:
        """Return a value that msgpack and JSON carry."""
        return {
            "latencies": self.latencies.encode().decode("ascii"),
            "seconds": {str(second): {str(us): n for us, n in row.items()} for second, row in self.seconds.items()},
            "failed_seconds": {str(second): n for second, n in self.failed_seconds.items()},
            "counts": [self.requests, self.failures, self.wrong, self.checked, self.measured],
            "errors": dict(self.errors),
        }

    def add(self, encoded: dict[str, Any]) -> None:
        """Merge what another process encoded."""
        self.latencies.decode_and_add(encoded["latencies"].encode("ascii"))
        for second, row in encoded["seconds"].items():
            self.seconds.setdefault(int(second), Counter()).update({int(us): n for us, n in row.items()})
        self.failed_seconds.update({int(second): n for second, n in encoded["failed_seconds"].items()})
        requests, failures, wrong, checked, measured = encoded["counts"]
        self.requests += requests
        self.failures += failures
        self.wrong += wrong
        self.checked += checked
        self.measured += measured
        self.errors.update(encoded["errors"])


class Recorder:
    """All tracks of this process."""

    def __init__(self) -> None:
        self.tracks: dict[tuple[str, str], Track] = {}
        self.started_s, self._warm_until_s = 0.0, 0.0

    def start(self, warmup_s: float) -> None:
        """Forget what was and begin a run now."""
        self.tracks.clear()
        self.started_s = time.time()  # wall clock: rows of several processes must line up
        self._warm_until_s = self.started_s + warmup_s

    def record(
        self,
        model: str,
        protocol: str,
        began_s: float,
        latency_us: float,
        *,
        error: str = "",
        checked: bool = False,
        wrong: bool = False,
    ) -> None:
        """Note one request; `began_s` is wall-clock time."""
        track = self.tracks.setdefault((model, protocol), Track())
        track.requests += 1
        track.checked += checked
        second = max(0, int(began_s + latency_us / 1e6 - self.started_s))
        warm = began_s >= self._warm_until_s
        track.measured += warm
        if error:
            track.failures += 1
            track.wrong += wrong
            track.errors[error] += 1
            track.failed_seconds[second] += 1
            return
        track.seconds.setdefault(second, Counter())[three_digits(latency_us)] += 1
        if warm:
            track.latencies.record_value(min(max(round(latency_us), LOWEST_US), HIGHEST_US))

    def drain(self) -> list[list[Any]]:
        """Return and forget what was recorded since the last call, for a report to the master."""
        parts = [[model, protocol, track.encode()] for (model, protocol), track in self.tracks.items()]
        self.tracks.clear()
        return parts

    def merge(self, parts: list[list[Any]]) -> None:
        """Add what a worker drained."""
        for model, protocol, encoded in parts:
            self.tracks.setdefault((model, protocol), Track()).add(encoded)


def three_digits(value: float) -> int:
    """Round to three significant digits.

    Example:
        >>> three_digits(1234.6), three_digits(87.3)
        (1230, 87)
    """
    whole = round(value)
    digits = len(str(whole)) - 3
    return round(whole, -digits) if digits > 0 else max(whole, 1)


def curve(latencies: Any) -> Iterator[tuple[float, float]]:
    """Yield (percentile, µs) for a percentile plot."""
    for percentile in (0, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100):
        yield percentile, float(latencies.get_value_at_percentile(percentile))


def bars(latencies: Any) -> list[tuple[int, int]]:
    """Return (µs, count) of every value that occurred."""
    return [
        (int(item.value_iterated_to), int(item.count_added_in_this_iter_step))
        for item in latencies.get_recorded_iterator()
    ]
