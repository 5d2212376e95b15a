"""An exhaustive search over a grid of server settings, run once and stored; the other half of tune.py.

In      the command line of tune.py and the name of a published model.
Out     benchmarks/results/tune_exhaustive_<model>.json, reused while model, machine and load are the same.

Every setting is measured once, and those within 15% of the best a second time.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks._parts.common import read_record, record, scratch_folder, stamp
from measure.operating_point.measurement import Load, Measurement, interleaved, measure
from measure.operating_point.rows import seconds_in_words
from measure.operating_point.server import ConfigurableModel, open_model
from measure.operating_point.setting import ServingSetting, setting_of
from measure.operating_point.usage import first_gpu
from measure.report.build import build_of
from measure.tune import slo as tune_slo
from measure.tune.search import Candidate
from planwright import console

ENOUGH_REQUESTS, LONGEST = 100, 3.0  # as tune: a slow model is measured for longer
AGAIN_WITHIN = 0.85  # of the best: noise is far smaller than the rest


class GridRunner:
    def __init__(self, args: argparse.Namespace, served: ConfigurableModel, scratch: Path) -> None:
        self._args, self.served, self._scratch, self._gpu = args, served, scratch, first_gpu()
        self._load = Load(8, args.protocol, args.batch, args.duration_s, 1.0, args.processes)
        self._first = True

    def once(self, candidate: Candidate) -> Measurement:
        """Measure once; the first measurement decides the length of the others."""
        self.served.set(candidate.setting)
        if self._first and not self._args.quick:
            self._first = False
            rate = max(self.once(candidate).throughput_per_s, 1.0)
            longer_s = min(ENOUGH_REQUESTS / rate, self._args.duration_s * LONGEST)
            self._load = replace(self._load, duration_s=float(math.ceil(max(longer_s, self._args.duration_s))))
        load = replace(self._load, users=candidate.users)
        return measure(self.served, load, self._args.repository, self._scratch, self._gpu)

    def rounds(self, candidates: Sequence[Candidate], count: int) -> list[list[Measurement]]:
        found: list[list[Measurement]] = [[] for _ in candidates]
        for number, index in enumerate(interleaved(range(len(candidates)), count), 1):
            found[index].append(self.once(candidates[index]))
            if number % len(candidates) == 0:
                rates = ", ".join(f"{values[-1].throughput_per_s:.0f}" for values in found)
                console.say(f"round {number // len(candidates)}/{count}: {rates} infer/sec")
        return found


@contextmanager
def runner(args: argparse.Namespace, name: str) -> Iterator[GridRunner]:
    with scratch_folder() as folder, open_model(args.repository, name, folder, None) as served:
        yield GridRunner(args, served, folder)


def slo_of(args: argparse.Namespace, name: str) -> tune_slo.Slo:
    return tune_slo.of_model(args.repository / name, build_of(args.repository, name))


def search(
    args: argparse.Namespace, name: str, runner: GridRunner, slo: tune_slo.Slo, default: ServingSetting
) -> dict[str, Any]:
    """Return the stored search of this model on this machine, or run it."""
    same, kept = {**about(args, name), "grid": _axes(args)}, stored(f"{args.prefix}tune_exhaustive_{name}")
    if not args.quick and not args.again and all(kept.get(key) == value for key, value in same.items()):
        return kept
    candidates = _grid(args, runner.served.published, default)
    readings: dict[Candidate, list[Measurement]] = {candidate: [] for candidate in candidates}
    began_s = time.monotonic()
    _measure(runner, readings, candidates)
    best_per_s = max(found[0].throughput_per_s for found in readings.values())
    near = [each for each in candidates if readings[each][0].throughput_per_s >= AGAIN_WITHIN * best_per_s]
    _measure(runner, readings, list(reversed(near)))
    rows = [_searched(candidate, found, slo) for candidate, found in readings.items()]
    plain = [row for row, candidate in zip(rows, candidates, strict=True) if candidate.setting == default]
    best = {"best": _top(rows), "best_default": _top(plain)}
    value = {**stamp(), **same, "seconds": time.monotonic() - began_s, "rows": rows, **best}
    if not args.quick:
        record(f"{args.prefix}tune_exhaustive_{name}", value)
    return value


def about(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Return what must be the same for a stored measurement to be reused."""
    identity, machine = build_of(args.repository, name).get("identity", ""), stamp()
    return {"identity": identity, "cpu": machine["cpu"], "cores": machine["cores"], "slo": slo_of(args, name).text,
            "load": load_words(args)}  # fmt: skip


def _measure(runner: GridRunner, readings: dict[Candidate, list[Measurement]], candidates: Sequence[Candidate]) -> None:
    began_s, total = time.monotonic(), len(candidates)
    for number, candidate in enumerate(candidates, 1):
        readings[candidate].append(runner.once(candidate))
        left_s = (time.monotonic() - began_s) / number * (total - number)
        rate = readings[candidate][-1].throughput_per_s
        console.say(f"{number}/{total}  {candidate.label}: {rate:.0f} infer/sec; {seconds_in_words(left_s)} left")


def load_words(args: argparse.Namespace) -> str:
    """Describe the load; measurements under another one are not reused."""
    processes = f", {args.processes} processes" if args.processes > 1 else ""
    return f"{args.protocol}, batch {args.batch}, {args.duration_s:g} s{processes}"


def stored(name: str) -> dict[str, Any]:
    """Return a record, an empty one where there is none."""
    try:
        return read_record(name)
    except FileNotFoundError:
        return {}


def _axes(args: argparse.Namespace) -> dict[str, Any]:
    """Return the grid as JSON values: the search of a smaller one is not reused."""
    axes = {"instances": args.instances, "queue_delay_us": args.queue_delay_us, "users": args.users}
    return {**{name: list(values) for name, values in axes.items()}, "whole_batch": args.whole_batch}


def _grid(args: argparse.Namespace, base: ServingSetting, default: ServingSetting) -> list[Candidate]:
    """Return tune's own axes, each combination; Triton's defaults are among them."""
    axes = (args.instances, args.queue_delay_us, args.users)
    whole = args.quick or args.whole_batch or base.max_batch < 4
    sizes = (base.max_batch,) if whole else (base.max_batch, base.max_batch // 2)
    found = [
        Candidate(ServingSetting(count, size, delay_us, graphs=base.graphs), users)
        for size, delay_us, count, users in itertools.product(sizes, axes[1], axes[0], axes[2])
        if delay_us is not None or size == base.max_batch  # without a batcher the limit changes nothing
    ]
    return list(dict.fromkeys([*(Candidate(default, users) for users in axes[2]), *found]))


def _searched(candidate: Candidate, found: Sequence[Measurement], slo: tune_slo.Slo) -> dict[str, Any]:
    latency_us = sum(m.latency_us.get(slo.percentile, 0.0) for m in found) / len(found)
    healthy = not any(m.failures for m in found) and all(m.requests for m in found)
    return {
        "label": candidate.label, "setting": candidate.setting.fields(), "users": candidate.users,
        "rates_per_s": [m.throughput_per_s for m in found], "latency_us": latency_us,
        "within": healthy and latency_us <= slo.limit_us,
    }  # fmt: skip


def _top(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the row with the most throughput within the SLO, else the one closest to it."""
    within = [row for row in rows if row["within"]]
    if within:
        return max(within, key=lambda row: statistics.fmean(row["rates_per_s"]))
    return min(rows, key=lambda row: row["latency_us"])


def candidate_of(row: dict[str, Any]) -> Candidate:
    return Candidate(setting_of(row["setting"]), row["users"])
