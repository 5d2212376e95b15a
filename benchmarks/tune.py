"""tune against an exhaustive search, and the sweep's "gain" against a setting compared with itself.

In      a published repository (python builders/build_all.py --random-weights resnet50).
Out     a table; benchmarks/results/tune_exhaustive_<model>.json (searched once, reused while model, machine and load are the
        same), tune.json and tune_aa.json; with ``--check`` exit code 1 where a stated target is missed.

The best of the exhaustive search is biased upwards, as the largest of many noisy readings always is. So it, tune's pick and Triton's
defaults are measured again, interleaved, and only those ratios count. Targets: pick over best reaches 0.98 with
its 95% interval, whose lower end is above 0.93; at most 12 points and 5 minutes; 1.9 times Triton's defaults where the search
found that much; at most 2 of 30 comparisons of a setting with itself report a gain. With ``--quick`` everything is tiny
and no record is written.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._parts import common, exhaustive
from benchmarks._parts.common import Inputs, ratio_words, record, run_module, scratch_folder, stamp, verdict
from clients.options import TRANSPORTS
from measure import statistics
from measure.operating_point.flags import delays_us, numbers
from measure.operating_point.measurement import Measurement
from measure.operating_point.rows import seconds_in_words
from measure.tune import slo as tune_slo
from measure.tune.search import Candidate
from planwright import console
from planwright.errors import EXIT_FAILED, EXIT_OK, Fault, StageError

Row = dict[str, Any]
MODELS = ("digits", "minilm", "resnet50")
REACHES, ABOVE, MUCH = 0.98, 0.93, 1.9
POINTS, MINUTES, SLACK = 12, 5.0, 1.05  # a measurement that has begun is finished
COMPARISONS, FALSE_GAINS = 30, 2
INSTANCES, DELAYS_US, USERS = (1, 2, 4), (None, 0, 500, 2000), (2, 8, 32, 128)
QUICK_INSTANCES, QUICK_DELAYS_US, QUICK_USERS = (1, 2), (None, 500), (8,)


def main(argv: Sequence[str]) -> int:
    args = command_line().parse_args(argv)
    if args.quick:
        args.duration_s, args.rounds, args.comparisons = 1.0, 2, 2
        args.instances, args.queue_delay_us, args.users = QUICK_INSTANCES, QUICK_DELAYS_US, QUICK_USERS
    inputs = Inputs()
    names = inputs.models(args.repository, *(args.model or MODELS[: 1 if args.aa else None]))
    if not names:
        inputs.require()
    met = _aa(args, names[0]) if args.aa else _against_exhaustive(args, names, inputs)
    return EXIT_FAILED if args.check and (inputs.missing or not met) else EXIT_OK


def command_line() -> console.Parser:
    p = common.parser(__doc__)
    add = p.add_argument
    add("--model", action="append", metavar="MODEL", help="repeatable (default: digits, minilm and resnet50)")
    add("--aa", action="store_true", help="compare a setting with itself instead")
    add("--again", action="store_true", help="search exhaustively even if there is a record")
    add("--duration-s", type=float, default=3.0, help="length of one measurement (default: %(default)s)")
    add("--rounds", type=int, default=8, help="interleaved rounds at the end (default: %(default)s)")
    add("--points", type=int, default=POINTS, help="of tune (default: %(default)s)")
    add("--minutes", type=float, default=MINUTES, help="of tune (default: %(default)s)")
    instances, users = numbers("--instances", "numbers", "1,2", 64), numbers("--users", "numbers", "8,32", 4096)
    add("--instances", type=instances, default=INSTANCES, metavar="1,2,4", help="of the grid")
    add("--users", type=users, default=USERS, metavar="8,32", help="of the grid")
    add("--queue-delay-us", type=delays_us, default=DELAYS_US, metavar="off,500", help="of the grid")
    add("--whole-batch", action="store_true", help="leave half of max_batch_size out of the grid")
    add("--protocol", choices=tuple(TRANSPORTS), default="grpc", help="of the load (default: %(default)s)")
    add("--batch", type=int, default=1, help="samples per request (default: %(default)s)")
    add("--processes", type=int, default=1, help="of the load (default: %(default)s)")
    add("--prefix", default="", help="of the names of the records")
    add("--until", choices=("search", "tune"), help="stop when the exhaustive search, or tune's report, is stored")
    add("--tuned", action="store_true", help="reuse the report stored by --until tune")
    add("--comparisons", type=int, default=COMPARISONS, help="of --aa (default: %(default)s)")
    add("--quick", action="store_true", help="tiny and without records, as a smoke test")
    return p


def _against_exhaustive(args: argparse.Namespace, names: Sequence[str], inputs: Inputs) -> bool:
    if args.until:
        steps = {"search": _search_only, "tune": _tune_only}
        return [steps[args.until](args, name) for name in names] != []
    rows = []
    for name in names:
        rows.append(_model(args, name))
        if not args.quick:
            inputs.keep(f"{args.prefix}tune", _with_others(args, rows[-1]))
    columns = ["model", "pick / best (95%)", "pick / Triton's defaults", "best / defaults", "points", "took", "targets"]
    console.table("tune", columns, [_cells(row) for row in rows])
    return all(row["met"] for row in rows)


def _with_others(args: argparse.Namespace, row: dict[str, Any]) -> dict[str, Any]:
    """Return the record with this model's row and the stored rows of other models on this machine."""
    about = {**stamp(), "load": exhaustive.load_words(args)}
    row = {**row, "rounds": args.rounds, "created": about["created"]}
    stored = exhaustive.stored(f"{args.prefix}tune")
    same = all(stored.get(key) == about[key] for key in ("cpu", "cores", "load"))
    others = [each for each in stored.get("rows", []) if same and each["model"] != row["model"]]
    rows = sorted([*others, row], key=lambda each: str(each["model"]))
    return {**about, "rows": rows}


def _search_only(args: argparse.Namespace, name: str) -> dict[str, Any]:
    slo = exhaustive.slo_of(args, name)
    with exhaustive.runner(args, name) as runner:
        return exhaustive.search(args, name, runner, slo, runner.served.learn_untuned())


def _tune_only(args: argparse.Namespace, name: str) -> dict[str, Any]:
    report = _tune(args, name)
    kept = {key: report[key] for key in ("pick", "points", "took_s", "verdict")}
    if not args.quick:
        record(f"{args.prefix}tuned_{name}", {**stamp(), **exhaustive.about(args, name), **kept})
    return report


def _tuned(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Return tune's stored report of this model on this machine.

    Raises:
        StageError: There is none.
    """
    stored = exhaustive.stored(f"{args.prefix}tuned_{name}")
    if any(stored.get(key) != value for key, value in exhaustive.about(args, name).items()):
        what = f"no report of tune is stored for this {name} and machine"
        raise StageError("load", Fault(what, fix="run it with --until tune first"))
    return stored


def _model(args: argparse.Namespace, name: str) -> dict[str, Any]:
    slo, tuned = exhaustive.slo_of(args, name), (_tuned if args.tuned else _tune)(args, name)
    with exhaustive.runner(args, name) as runner:
        found = exhaustive.search(args, name, runner, slo, runner.served.learn_untuned())
        pick, best = exhaustive.candidate_of(tuned["pick"]), exhaustive.candidate_of(found["best"])
        base = exhaustive.candidate_of(found["best_default"])
        candidates = list(dict.fromkeys((pick, best, base)))
        measured = dict(zip(candidates, runner.rounds(candidates, args.rounds), strict=True))
    row = _row(name, tuned, slo, {"pick": pick, "best": best, "default": base}, measured)
    few = len(tuned["points"]) <= args.points and tuned["took_s"] <= args.minutes * 60 * SLACK
    return {**row, "targets": {**row["targets"], "few": few}, "met": row["met"] and few}


def _row(name: str, tuned: Row, slo: tune_slo.Slo, roles: dict[str, Candidate], measured: dict[Candidate, list[Measurement]]) -> Row:  # fmt: skip
    rates = {role: [m.throughput_per_s for m in measured[candidate]] for role, candidate in roles.items()}
    over_best, over_default = _ratio(rates["best"], rates["pick"]), _ratio(rates["default"], rates["pick"])
    best_over_default = _ratio(rates["default"], rates["best"])
    near = over_best["high"] >= REACHES and over_best["low"] > ABOVE
    much = best_over_default["mean"] < MUCH or over_default["mean"] >= MUCH
    latencies = [m.latency_us.get(slo.percentile, 0.0) for m in measured[roles["pick"]]]
    return {
        "model": name, "slo": slo.text, "points": len(tuned["points"]), "took_s": tuned["took_s"], "over_best": over_best,
        "over_default": over_default, "best_over_default": best_over_default,
        "labels": {role: candidate.label for role, candidate in roles.items()},
        "rates_per_s": rates, "pick_latency_us": statistics.interval(latencies), "tune_verdict": tuned["verdict"],
        "targets": {"near": near, "much": much}, "met": near and much,
    }  # fmt: skip


def _ratio(base: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    found = statistics.ratio(zip(base, other, strict=True))
    return {"mean": 1 + found.mean, "low": 1 + found.low, "high": 1 + found.high}


def _cells(row: dict[str, Any]) -> list[object]:
    missed = [name for name, met in row["targets"].items() if not met]
    return [row["model"], ratio_words(row["over_best"]), ratio_words(row["over_default"]), ratio_words(row["best_over_default"]), row["points"],
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
    with scratch_folder() as folder:
        places = ["--runs", str(folder), "--repository", str(args.repository), "--duration-s", str(args.duration_s)]
        done = run_module("loadtest", "tune", name, "--json", *places, *load, *limits, show_errors=True)
    report: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    if not report.get("pick"):
        raise StageError("load", f"tune found nothing for {name}: see above")
    return report


def _aa(args: argparse.Namespace, name: str) -> bool:
    """Compare the published setting with itself, as a sweep with three repeats would."""
    with exhaustive.runner(args, name) as runner:
        same = Candidate(runner.served.published, 8)
        verdicts = []
        for number in range(args.comparisons):
            pair = [[m.throughput_per_s for m in found] for found in runner.rounds([same, same], 3)]
            verdicts.append({"values": pair, "words": statistics.compare(*pair)})
            console.say(f"{number + 1}/{args.comparisons}  {verdicts[-1]['words']}")
    gains, losses = (sum(str(each["words"]).startswith(what) for each in verdicts) for what in ("gain", "loss"))
    met = gains <= FALSE_GAINS
    counts = f"{gains} gains, {losses} losses ({verdict(met)})"
    console.say(f"{name}: {len(verdicts)} comparisons of a setting with itself: {counts}")
    if not args.quick:
        value = {**stamp(), "model": name, "gains": gains, "losses": losses, "met": met, "verdicts": verdicts}
        console.say(f"record: {record('tune_aa', value).relative_to(common.ROOT)}")
    return met


if __name__ == "__main__":
    console.run(main)
