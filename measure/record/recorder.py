"""Every latency of a run, at full resolution, from any number of processes.

In      one call per request.
Out     `Track` per model and transport: HdrHistograms (3 digits from 1 µs to an hour), a bounded time series, counts, errors.

locust's own numbers are rounded (1 ms below 100 ms), so they are not used. A worker's record travels to the master with
locust's own reports and is merged there without loss. Moments are those of the monotonic clock, placed on the wall clock
once per run, so that a step of the wall clock changes nothing. Nothing here grows with the length of a run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hdrh.histogram import HdrHistogram

from measure.record.timeline import Series

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}  # those that are reported
LOWEST_US, HIGHEST_US, DIGITS = 1, 3_600_000_000, 3
MOST_ERRORS, OTHER = 50, "other errors"
COUNTS = ("sent", "cancels", "requests", "failures", "wrong", "checked", "measured", "in_window", "samples")

MOST_FRESH = 1024
CANCELLED_S = 1.0  # a user that is stopped while it rests may wake up and send before the stop reaches it
clock = time.perf_counter
Key = tuple[str, str]  # model, transport


def histogram() -> Any:
    return HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)


class LatencyBuffer:
    """Values on their way into a histogram, where finding the bucket costs more than all else about a request: equal values go together."""

    def __init__(self) -> None:
        self._histogram, self._fresh = histogram(), dict[int, int]()

    def add(self, us: float) -> None:
        value = round(us)
        self._fresh[value] = self._fresh.get(value, 0) + 1
        if len(self._fresh) > MOST_FRESH:  # one at a time: users wait while a histogram is filled
            self._settle(next(iter(self._fresh)))

    def settled(self) -> Any:
        """Return the histogram with all values in it."""
        while self._fresh:
            self._settle(next(iter(self._fresh)))
        return self._histogram

    def _settle(self, value: int) -> None:
        self._histogram.record_value(min(max(value, LOWEST_US), HIGHEST_US), self._fresh.pop(value))


@dataclass
class Track:
    """What happened to one model over one transport.

    Attributes:
        measured_us: Of successful requests that began after the warm-up; from the moment they were due in an open loop.
        service_us: Of the same requests, from the moment they were sent.
        series: Answers, failures and latencies over time, warm-up included.
        sent, requests: Requests that went out, and those that ended, over the whole run.
        cancels: Requests that were cut off with their user; neither answered nor missed.
        failures, wrong, checked: Counts over the whole run; a wrong answer is a failure too.
        measured: Requests that began after the warm-up.
        in_window: Successful requests that ended between the end of the warm-up and the end of the load, whenever they began.
        samples: What these held: what throughput is made of.
        errors: Text → count.
    """

    measured_us: LatencyBuffer = field(default_factory=LatencyBuffer)
    service_us: LatencyBuffer = field(default_factory=LatencyBuffer)
    series: Series = field(default_factory=Series)
    sent: int = 0
    cancels: int = 0
    requests: int = 0
    failures: int = 0
    wrong: int = 0
    checked: int = 0
    measured: int = 0
    in_window: int = 0
    samples: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def latencies(self) -> Any:
        return self.measured_us.settled()

    @property
    def service(self) -> Any:
        return self.service_us.settled()

    def encode(self) -> dict[str, Any]:
        return {
            "latencies": self.latencies.encode().decode("ascii"),
            "service": self.service.encode().decode("ascii"),
            "series": self.series.encode(),
            "counts": [getattr(self, name) for name in COUNTS],
            "errors": dict(self.errors),
        }

    def add(self, encoded: dict[str, Any]) -> None:
        self.latencies.decode_and_add(encoded["latencies"].encode("ascii"))
        self.service.decode_and_add(encoded["service"].encode("ascii"))
        self.series.add(Series.decode(encoded["series"]))
        for name, count in zip(COUNTS, encoded["counts"], strict=True):
            setattr(self, name, getattr(self, name) + count)
        for text, count in encoded["errors"].items():
            self.note(text, count)

    def note(self, text: str, count: int = 1) -> None:
        """Count an error; a server whose every message is different does not fill the memory."""
        self.errors[text if text in self.errors or len(self.errors) < MOST_ERRORS else OTHER] += count


class Recorder:
    """All tracks of this process.

    A request under way at the end of the warm-up, or of the load, belongs to neither side of it: throughput counts answers
    by the moment they came, latencies are those of requests that began after the warm-up.

    Attributes:
        started, warm_until, ended: Moments of ``time.perf_counter``; `ended` is 0 while the load goes on.
    """

    def __init__(self) -> None:
        self.tracks: dict[Key, Track] = {}
        self.started = self.warm_until = self.ended = 0.0
        self._slowest_s: dict[Key, float] = {}

    def start(self, warmup_s: float) -> None:
        """Drop earlier records; a run begins now."""
        self.tracks.clear()
        self._slowest_s.clear()
        self.started, self.ended = clock(), 0.0
        self.warm_until = self.started + warmup_s

    def end(self, moment: float | None = None) -> None:
        """The load is over, or was or will be at `moment`; answers that come later count as answers, not as throughput."""
        self.ended = self.ended or moment or clock()

    def stop(self) -> None:
        """The load is over now at the latest."""
        self.ended = min(self.ended or clock(), clock())

    @property
    def slowest_s(self) -> float:
        """The longest time from send to answer so far."""
        return max(self._slowest_s.values(), default=0.0)

    @property
    def over(self) -> bool:
        return 0 < self.ended <= clock()

    @property
    def window_s(self) -> float:
        """Length of what is measured: from the end of the warm-up to the end of the load."""
        return max((self.ended or clock()) - self.warm_until, 1e-9)

    def sent(self, key: Key) -> None:
        """Count a request that goes out; one that never ends is missed later."""
        self._track(key).sent += 1

    def cut_off(self, key: Key, under_way_s: float) -> None:
        """Count a request that was cut off with its user; it is missed only where others had their answer within that time."""
        self._track(key).cancels += under_way_s < max(CANCELLED_S, self._slowest_s.get(key, 0.0))

    def checked(self, key: Key) -> None:
        self._track(key).checked += 1

    def answered(
        self, key: Key, began: float, latency_us: float, service_us: float | None = None, samples: int = 1
    ) -> None:
        """Record a right answer; `began` is the moment of ``time.perf_counter`` that its latency counts from."""
        track, done = self._track(key), began + latency_us / 1e6
        track.requests += 1
        track.series.answered(max(0, int(done - self.started)), latency_us)
        taken_us = latency_us if service_us is None else service_us
        self._slowest_s[key] = max(self._slowest_s.get(key, 0.0), taken_us / 1e6)
        if self.warm_until <= done and not self.over and (not self.ended or done <= self.ended):
            track.in_window += 1
            track.samples += samples
        if began >= self.warm_until:
            track.measured += 1
            track.measured_us.add(latency_us)
            track.service_us.add(taken_us)

    def failed(self, key: Key, began: float, latency_us: float, error: str, *, wrong: bool = False) -> None:
        track = self._track(key)
        track.requests += 1
        track.failures += 1
        track.wrong += wrong
        track.measured += began >= self.warm_until
        track.note(error)
        track.series.failed(max(0, int(began + latency_us / 1e6 - self.started)))

    def answers(self) -> dict[str, int]:
        """Return how many answers came from each model, wrong ones included."""
        found: Counter[str] = Counter()
        for (model, _), track in self.tracks.items():
            found[model] += track.requests - track.failures + track.wrong
        return found

    def drain(self) -> list[list[Any]]:
        """Return what was recorded since the last call, for a report to the master, and drop it."""
        parts = [[model, protocol, track.encode()] for (model, protocol), track in self.tracks.items()]
        self.tracks.clear()
        return parts

    def merge(self, parts: list[list[Any]]) -> None:
        for model, transport, encoded in parts:
            self._track((model, transport)).add(encoded)

    def _track(self, key: Key) -> Track:
        track = self.tracks.get(key)
        if track is None:
            track = self.tracks[key] = Track()
        return track


def curve(latencies: Any) -> Iterator[tuple[float, float]]:
    """Yield (percentile, µs) for a percentile plot."""
    for percentile in (0, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100):
        yield percentile, float(latencies.get_value_at_percentile(percentile))


def bars(latencies: Any) -> list[tuple[int, int]]:
    """Return (µs, count) of every value that occurred."""
    items = latencies.get_recorded_iterator()
    return [(int(item.value_iterated_to), int(item.count_added_in_this_iter_step)) for item in items]


def up_to(latencies: Any, limit_us: float) -> int:
    return sum(count for us, count in bars(latencies) if us <= limit_us)
