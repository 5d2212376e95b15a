"""tune against an exhaustive search, and the sweep's "gain" against a setting compared with itself.

In      a published repository (python builders/build_all.py --random-weights resnet50).
Out     a table; benchmarks/results/tune_exhaustive_<model>.json (searched once, kept while model, machine and load are the
        same), tune.json and tune_aa.json; with ``--check`` exit code 1 where a stated target is missed.

Every setting of the grid is measured, and again each that comes within 15% of the best.

The best of the exhaustive search is flattered by luck, as every largest of many is. So it, tune's pick and Triton's defaults are
measured anew, one after the other in each round, and only those ratios count. Targets: pick over best reaches 0.98 with
its 95% interval, whose lower end is above 0.93; at most 12 points and 5 minutes; 1.9 times Triton's defaults where the search
shows that much is there; at most 2 of 30 comparisons of a setting with itself say "gain". With ``--quick`` everything is tiny
and no record is written.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._common import read_record, record, stamp  # noqa: E402
from clients import published  # noqa: E402
from loadtest import _stats, _tune_slo  # noqa: E402
from loadtest._locust import TRANSPORTS  # noqa: E402
from loadtest._point import Setting  # noqa: E402
from loadtest._point_args import delays_us, numbers  # noqa: E402
from loadtest._point_load import Load, Measured, measure  # noqa: E402
from loadtest._point_report import seconds_in_words  # noqa: E402
from loadtest._point_server import Bench, bench  # noqa: E402
from loadtest._point_usage import first_gpu  # noqa: E402
from loadtest._tune_search import Candidate  # noqa: E402
from planwright import console  # noqa: E402
from planwright.errors import StageError  # noqa: E402

MODELS = ("digits", "minilm", "resnet50")
REACHES, ABOVE, MUCH = 0.98, 0.93, 1.9
POINTS, MINUTES, SLACK = 12, 5.0, 1.05  # a measurement that has begun is ended
COMPARISONS, FALSE_GAINS = 30, 2
INSTANCES, DELAYS_US, USERS = (1, 2, 4), (None, 0, 500, 2000), (2, 8, 32, 128)
QUICK_INSTANCES, QUICK_DELAYS_US, QUICK_USERS = (1, 2), (None, 500), (8,)
ENOUGH_REQUESTS, LONGEST = 100, 3.0  # as tune: a slow model is measured for longer
AGAIN_WITHIN = 0.85  # of the best: noise is far smaller than the rest


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the models that are asked for."""
    args = parser().parse_args(argv)
    if args.quick:
        args.duration_s, args.rounds, args.comparisons = 1.0, 2, 2
        args.instances, args.queue_delay_us, args.users = QUICK_INSTANCES, QUICK_DELAYS_US, QUICK_USERS
    names = published.select(args.repository, args.model or [m for m in MODELS if (args.repository / m).is_dir()])
    met = _aa(args, names[0]) if args.aa else _against_exhaustive(args, names)
    return 1 if args.check and not met else 0


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument(
        "--model", action="append", metavar="MODEL", help="repeatable (default: digits, minilm and resnet50)"
    )
    p.add_argument("--aa", action="store_true", help="compare a setting with itself instead")
    p.add_argument("--again", action="store_true", help="search exhaustively although there is a record")
    p.add_argument("--duration-s", type=float, default=3.0, help="length of one measurement (default: %(default)s)")
    p.add_argument("--rounds", type=int, default=8, help="interleaved rounds at the end (default: %(default)s)")
    p.add_argument("--points", type=int, default=POINTS, help="of tune (default: %(default)s)")
    p.add_argument("--minutes", type=float, default=MINUTES, help="of tune (default: %(default)s)")
    p.add_argument(
        "--instances",
        type=numbers("--instances", "numbers", "1,2", 64),
        default=INSTANCES,
        metavar="1,2,4",
        help="of the grid",
    )
    p.add_argument(
        "--users", type=numbers("--users", "numbers", "8,32", 4096), default=USERS, metavar="8,32", help="of the grid"
    )
    p.add_argument("--queue-delay-us", type=delays_us, default=DELAYS_US, metavar="off,500", help="of the grid")
    p.add_argument("--whole-batch", action="store_true", help="leave half of max_batch_size out of the grid")
    p.add_argument("--protocol", choices=TRANSPORTS, default="grpc")
    p.add_argument("--batch", type=int, default=1, help="samples per request (default: %(default)s)")
    p.add_argument("--processes", type=int, default=1, help="of the load (default: %(default)s)")
    p.add_argument("--prefix", default="", help="of the names of the records")
    p.add_argument("--until", choices=("search",), help="stop when the exhaustive search is stored")
    p.add_argument("--comparisons", type=int, default=COMPARISONS, help="of --aa (default: %(default)s)")
    p.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    p.add_argument("--quick", action="store_true", help="tiny and without records: does it work at all?")
    p.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    return p


class Runner:
    """Measures candidates of one model on one server."""

    def __init__(self, args: argparse.Namespace, served: Bench, scratch: Path) -> None:
        self._args, self.served, self._scratch, self._gpu = args, served, scratch, first_gpu()
        self._load = Load(8, args.protocol, args.batch, args.duration_s, 1.0, args.processes)
        self._first = True

    def once(self, candidate: Candidate) -> Measured:
        """Measure once; the first measurement says how long the others must be."""
        self.served.set(candidate.setting)
        if self._first and not self._args.quick:
            self._first = False
            rate = max(self.once(candidate).throughput_per_s, 1.0)
            longer_s = min(ENOUGH_REQUESTS / rate, self._args.duration_s * LONGEST)
            self._load = replace(self._load, duration_s=float(math.ceil(max(longer_s, self._args.duration_s))))
        load = replace(self._load, users=candidate.users)
        return measure(self.served, load, self._args.repository, self._scratch, self._gpu)

    def rounds(self, arms: Sequence[Candidate], count: int) -> list[list[Measured]]:
        """Measure all arms in each round, every other round backwards; returns one list per arm."""
        found: list[list[Measured]] = [[] for _ in arms]
        for number in range(count):
            order = range(len(arms)) if number % 2 == 0 else reversed(range(len(arms)))
            for index in order:
                found[index].append(self.once(arms[index]))
            rates = ", ".join(f"{values[-1].throughput_per_s:.0f}" for values in found)
            console.say(f"round {number + 1}/{count}: {rates} infer/sec")
        return found


def _against_exhaustive(args: argparse.Namespace, names: Sequence[str]) -> bool:
    if args.until:
        return [_search_only(args, name) for name in names] != []
    rows = [_model(args, name) for name in names]
    columns = ["model", "pick / best (95%)", "pick / Triton's defaults", "best / defaults", "points", "took", "targets"]
    console.table("tune", columns, [_cells(row) for row in rows])
    if not args.quick:
        console.say(
            f"record: {record(f'{args.prefix}tune', {**stamp(), 'load': _load_words(args), 'rounds': args.rounds, 'rows': rows}).relative_to(ROOT)}"
        )
    return all(row["met"] for row in rows)


def _search_only(args: argparse.Namespace, name: str) -> dict[str, Any]:
    slo = _slo(args, name)
    with _runner(args, name) as runner:
        return _exhaustive(args, name, runner, slo, runner.served.learn_untuned())


@contextmanager
def _runner(args: argparse.Namespace, name: str) -> Iterator[Runner]:
    with (
        tempfile.TemporaryDirectory(prefix="planwright-bench-") as folder,
        bench(args.repository, name, Path(folder), None) as served,
    ):
        yield Runner(args, served, Path(folder))


def _slo(args: argparse.Namespace, name: str) -> _tune_slo.Slo:
    newest = published.newest(args.repository, name)
    return _tune_slo.of_model(args.repository / name, newest.build if newest else {})


def _model(args: argparse.Namespace, name: str) -> dict[str, Any]:
    slo, tuned = _slo(args, name), _tune(args, name)
    with _runner(args, name) as runner:
        found = _exhaustive(args, name, runner, slo, runner.served.learn_untuned())
        pick, best = _candidate(tuned["pick"]), _candidate(found["best"])
        base = _candidate(found["best_default"])
        arms = list(dict.fromkeys((pick, best, base)))
        measured = dict(zip(arms, runner.rounds(arms, args.rounds), strict=True))
    row = _row(name, tuned, slo, {"pick": pick, "best": best, "default": base}, measured)
    few = len(tuned["points"]) <= args.points and tuned["took_s"] <= args.minutes * 60 * SLACK
    return {**row, "targets": {**row["targets"], "few": few}, "met": row["met"] and few}


def _row(
    name: str, tuned: dict[str, Any], slo: _tune_slo.Slo, arms: dict[str, Candidate], measured: dict[Candidate, list[Measured]]
) -> dict[str, Any]:  # fmt: skip
    rates = {role: [m.throughput_per_s for m in measured[arm]] for role, arm in arms.items()}
    over_best, over_default = _ratio(rates["best"], rates["pick"]), _ratio(rates["default"], rates["pick"])
    there = _ratio(rates["default"], rates["best"])
    near = over_best["high"] >= REACHES and over_best["low"] > ABOVE
    much = there["mean"] < MUCH or over_default["mean"] >= MUCH
    latencies = [m.latency_us.get(slo.percentile, 0.0) for m in measured[arms["pick"]]]
    return {
        "model": name, "slo": slo.text, "points": len(tuned["points"]), "took_s": tuned["took_s"], "over_best": over_best,
        "over_default": over_default, "best_over_default": there, "labels": {role: arm.label for role, arm in arms.items()},
        "rates_per_s": rates, "pick_latency_us": _stats.interval(latencies), "tune_verdict": tuned["verdict"],
        "targets": {"near": near, "much": much}, "met": near and much,
    }  # fmt: skip


def _ratio(base: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    found = _stats.ratio(zip(base, other, strict=True))
    return {"mean": 1 + found.mean, "low": 1 + found.low, "high": 1 + found.high}


def _cells(row: dict[str, Any]) -> list[object]:
    def told(ratio: dict[str, float]) -> str:
        return f"{ratio['mean']:.3f} ({ratio['low']:.3f} – {ratio['high']:.3f})"

    missed = [name for name, met in row["targets"].items() if not met]
    return [row["model"], told(row["over_best"]), told(row["over_default"]), told(row["best_over_default"]), row["points"],
            seconds_in_words(row["took_s"]), f"MISSED: {', '.join(missed)}" if missed else "met"]  # fmt: skip


def _tune(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Run the command itself and return its report.

    Raises:
        StageError: It found nothing within the SLO.
    """
    load = ["--protocol", args.protocol, "--batch", str(args.batch), "--processes", str(args.processes)]
    limits = ["--points", str(args.points), "--minutes", str(args.minutes)]
    if args.quick:
        limits = ["--points", "4", "--minutes", "0.7", "--repeats", "2", "--users", "8"]
    with tempfile.TemporaryDirectory(prefix="planwright-bench-") as folder:
        command = [sys.executable, "-m", "loadtest", "tune", name, "--json", "--runs", folder, "--duration-s", str(args.duration_s),
                   "--repository", str(args.repository), *load, *limits]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    report: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    if not report.get("pick"):
        raise StageError("load", f"tune found nothing for {name}: see above")
    return report


def _exhaustive(
    args: argparse.Namespace, name: str, runner: Runner, slo: _tune_slo.Slo, default: Setting
) -> dict[str, Any]:
    """Return the stored search of this model on this machine, or search."""
    newest = published.newest(args.repository, name)
    about = {"identity": newest.build.get("identity", "") if newest else "", "cpu": stamp()["cpu"], "cores": stamp()["cores"], "slo": slo.text,
             "load": _load_words(args)}  # fmt: skip
    stored = _stored(f"{args.prefix}tune_exhaustive_{name}")
    if not args.quick and not args.again and all(stored.get(key) == value for key, value in about.items()):
        return stored
    candidates = _grid(args, runner.served.published, default)
    readings: dict[Candidate, list[Measured]] = {candidate: [] for candidate in candidates}
    began_s = time.monotonic()
    _look(runner, readings, candidates)
    best_per_s = max(found[0].throughput_per_s for found in readings.values())
    near = [each for each in candidates if readings[each][0].throughput_per_s >= AGAIN_WITHIN * best_per_s]
    _look(runner, readings, list(reversed(near)))
    rows = [_searched(candidate, found, slo) for candidate, found in readings.items()]
    plain = [row for row, candidate in zip(rows, candidates, strict=True) if candidate.setting == default]
    value = {
        **stamp(),
        **about,
        "seconds": time.monotonic() - began_s,
        "rows": rows,
        "best": _top(rows),
        "best_default": _top(plain),
    }
    if not args.quick:
        record(f"{args.prefix}tune_exhaustive_{name}", value)
    return value


def _look(runner: Runner, readings: dict[Candidate, list[Measured]], candidates: Sequence[Candidate]) -> None:
    """Measure each once."""
    began_s, total = time.monotonic(), len(candidates)
    for number, candidate in enumerate(candidates, 1):
        readings[candidate].append(runner.once(candidate))
        left_s = (time.monotonic() - began_s) / number * (total - number)
        rate = readings[candidate][-1].throughput_per_s
        console.say(f"{number}/{total}  {candidate.label}: {rate:.0f} infer/sec; {seconds_in_words(left_s)} left")


def _load_words(args: argparse.Namespace) -> str:
    processes = f", {args.processes} processes" if args.processes > 1 else ""
    return f"{args.protocol}, batch {args.batch}, {args.duration_s:g} s{processes}"


def _stored(name: str) -> dict[str, Any]:
    try:
        return read_record(name)
    except FileNotFoundError:
        return {}


def _grid(args: argparse.Namespace, base: Setting, default: Setting) -> list[Candidate]:
    """Return tune's own axes, each combination; Triton's defaults are among them."""
    axes = (args.instances, args.queue_delay_us, args.users)
    whole = args.quick or args.whole_batch or base.max_batch < 4
    sizes = (base.max_batch,) if whole else (base.max_batch, base.max_batch // 2)
    found = [
        Candidate(Setting(count, size, delay_us, graphs=base.graphs), users)
        for size, delay_us, count, users in itertools.product(sizes, axes[1], axes[0], axes[2])
        if delay_us is not None or size == base.max_batch  # without a batcher the limit changes nothing
    ]
    return list(dict.fromkeys([*(Candidate(default, users) for users in axes[2]), *found]))


def _searched(candidate: Candidate, found: Sequence[Measured], slo: _tune_slo.Slo) -> dict[str, Any]:
    latency_us = sum(m.latency_us.get(slo.percentile, 0.0) for m in found) / len(found)
    healthy = not any(m.failures for m in found) and all(m.requests for m in found)
    return {
        "label": candidate.label, "setting": candidate.setting.fields(), "users": candidate.users,
        "rates_per_s": [m.throughput_per_s for m in found], "latency_us": latency_us,
        "within": healthy and latency_us <= slo.limit_us,
    }  # fmt: skip


def _top(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the row with the most throughput among those within the SLO, else the one nearest to it."""
    within = [row for row in rows if row["within"]]
    return (
        max(within, key=lambda row: statistics.fmean(row["rates_per_s"]))
        if within
        else min(rows, key=lambda row: row["latency_us"])
    )


def _candidate(row: dict[str, Any]) -> Candidate:
    fields = row["setting"]
    batching = fields["dynamic_batching"]
    delay_us = None if batching is None else batching["max_queue_delay_microseconds"]
    preferred = () if batching is None else tuple(batching.get("preferred_batch_size", ()))
    return Candidate(
        Setting(
            fields["instance_group"][0]["count"],
            fields["max_batch_size"],
            delay_us,
            preferred,
            "optimization" in fields,
        ),
        row["users"],
    )


def _aa(args: argparse.Namespace, name: str) -> bool:
    """Compare the published setting with itself, as a sweep with three repeats would."""
    with _runner(args, name) as runner:
        same = Candidate(runner.served.published, 8)
        verdicts = []
        for number in range(args.comparisons):
            pair = [[m.throughput_per_s for m in found] for found in runner.rounds([same, same], 3)]
            verdicts.append({"values": pair, "words": _stats.compare(*pair)})
            console.say(f"{number + 1}/{args.comparisons}  {verdicts[-1]['words']}")
    words = [str(each["words"]) for each in verdicts]
    gains, losses = (sum(word.startswith(what) for word in words) for what in ("gain", "loss"))
    met = gains <= FALSE_GAINS
    console.say(
        f"{name}: {len(words)} comparisons of a setting with itself: {gains} gains, {losses} losses ({'met' if met else 'MISSED'})"
    )
    if not args.quick:
        value = {**stamp(), "model": name, "gains": gains, "losses": losses, "met": met, "verdicts": verdicts}
        console.say(f"record: {record('tune_aa', value).relative_to(ROOT)}")
    return met


if __name__ == "__main__":
    console.run(lambda argv: main(argv))
