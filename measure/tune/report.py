"""The report of a tune: every point that was tried, the final comparison, the verdict, the budget.

In      the search, the final readings.
Out     runs/<id>/report.json and report.html; the tables on the terminal.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure import statistics
from measure.operating_point import rows as point_rows
from measure.operating_point.setting import Setting
from measure.report import build as report_build
from measure.report.schema import SCHEMA_VERSION
from measure.report.verdict import LOUD
from measure.tune.search import Candidate, Reading, Search, Trial
from measure.tune.slo import Slo
from planwright import console

if TYPE_CHECKING:
    from measure.tune.command import Outcome

STOPPED = "stopped by Ctrl-C"
NAMES = {"default": "Triton's default settings", "published": "the published setting"}


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def save(args: argparse.Namespace, slo: Slo, outcome: Outcome, build: dict[str, Any]) -> dict[str, Any]:
    """Write the report and tell it; returns the JSON value."""
    folder = report_build.new_folder(args.runs, f"tune-{args.model}")
    report = {
        "schema": SCHEMA_VERSION, "kind": "tune", **report_build.header(folder, outcome.identity),
        **make(args, slo, outcome, build),
    }  # fmt: skip
    report_build.save(folder, report)
    _show(report, folder)
    if args.json:
        console.emit_json({**report, "report": str(folder / "report.html")})
    return report


def make(args: argparse.Namespace, slo: Slo, outcome: Outcome, build: dict[str, Any]) -> dict[str, Any]:
    """Return what `save` writes below the header."""
    search = outcome.search
    assert search is not None
    assert outcome.load is not None
    finals = [_final(candidate, found, outcome, build, slo) for candidate, found in outcome.finals.items() if found]
    pick = next((row for row in finals if "pick" in row["roles"]), None)
    against = {role: _against(finals, role, outcome) for role in ("default", "published")}
    every = [reading.detail for trial in search.trials.values() for reading in trial.readings]
    report = {
        **point_rows.identity(build), **point_rows.conditions(outcome.load),
        "slo": {"percentile": slo.percentile, "limit_us": slo.limit_us, "text": slo.text},
        "points": [_tried(trial, number, search, build) for number, trial in enumerate(search.trials.values(), 1)],
        "finals": finals, "pick": pick and {"users": pick["users"], "label": pick["label"], "setting": pick["setting"]},
        "against": against, "stopped": search.stopped or outcome.stopped_by, "took_s": round(outcome.took_s, 1),
        "limits": {"points": args.points, "minutes": args.minutes, "repeats": args.repeats},
        "skipped": point_rows.skipped(every, build), "server": {}, "models": [],
    }  # fmt: skip
    return {**report, "verdict": _verdict(report, search, slo, outcome)}


def _tried(trial: Trial, number: int, search: Search, build: Mapping[str, Any]) -> dict[str, Any]:
    row = _row(trial.candidate, trial.readings, build)
    return {**row, "number": number, "looks": len(trial.readings), "within": search.meets(trial), "fate": trial.fate}


def _final(candidate: Candidate, found: list[Reading], outcome: Outcome, build: Mapping[str, Any], slo: Slo) -> dict[str, Any]:  # fmt: skip
    row = _row(candidate, found, build)
    named = {"pick": outcome.pick == candidate, "default": outcome.default == candidate.setting,
             "published": outcome.published == candidate.setting}  # fmt: skip
    within = row[f"{slo.percentile}_us"]["mean"] <= slo.limit_us and not row["failures"]
    return {**row, "roles": [role for role, holds in named.items() if holds], "within": within}


def _row(candidate: Candidate, found: list[Reading], build: Mapping[str, Any]) -> dict[str, Any]:
    row = point_rows.point(candidate.setting, [reading.detail for reading in found], build)
    return {**row, "users": candidate.users}


def _against(finals: list[dict[str, Any]], role: str, outcome: Outcome) -> dict[str, Any] | None:
    """Return by how much the pick differs from Triton's defaults, or from what is published; None without both."""
    pick = next((row for row in finals if "pick" in row["roles"]), None)
    others = [row for row in finals if role in row["roles"] and row is not pick]
    setting: Setting | None = getattr(outcome, role)
    if pick is None or setting is None:
        return None
    if role in pick["roles"] or not others:
        return {
            "label": setting.label,
            "same": role in pick["roles"],
            "words": "it is the same setting" if role in pick["roles"] else "it was not measured",
            "verdict": statistics.SAME if role in pick["roles"] else statistics.UNKNOWN,
        }
    other = max(others, key=lambda row: (row["within"], row["throughput_per_s"]["mean"]))
    values = [row["throughput_per_s"]["values"] for row in (other, pick)]
    found = statistics.change(*values)
    words = statistics.compare(*values) + ("" if other["within"] else ", and it misses the SLO")
    numbers = {} if found is None else {"change": found.mean, "low": found.low, "high": found.high}
    return {"label": f"{other['label']} · {other['users']} in flight", "same": False, "within": other["within"], "words": words,
            "verdict": statistics.verdict(*values), **numbers}  # fmt: skip


def _verdict(report: dict[str, Any], search: Search, slo: Slo, outcome: Outcome) -> dict[str, Any]:
    tail = [
        f"tried {console.many(len(report['points']), 'point')} in {point_rows.seconds_in_words(report['took_s'])}; stopped: {report['stopped']}"
    ]
    if outcome.stopped_by:
        best = search.best
        tail += [f"best so far: {best.candidate.label}: {best.throughput_per_s:.0f} infer/sec"] if best else []
        return {
            "status": "inconclusive" if outcome.stopped_by == STOPPED else "fail",
            "reasons": [outcome.stopped_by, *tail],
        }
    pick = next((row for row in report["finals"] if "pick" in row["roles"]), None)
    if pick is None:
        return {"status": "fail", "reasons": [_missed(report["finals"], search, slo), *tail]}
    key = f"{slo.percentile}_us"
    latency, rate = pick[key], pick["throughput_per_s"]
    unknown = [
        NAMES[role]
        for role, row in report["against"].items()
        if row and row.get("within", True) and row["verdict"] == statistics.UNKNOWN
    ]
    reasons = [
        f"{'highest measured' if unknown else 'best'} within {slo.text}: {pick['label']} · {pick['users']} in flight: "
        f"{rate['mean']:.0f} ± {rate['half_width']:.0f} infer/sec, "
        f"{slo.percentile} {latency['mean'] / 1000:.2f} ± {latency['half_width'] / 1000:.2f} ms",
        *_comparisons(report["against"]),
        f"this SLO needs {point_rows.costs_in_words(pick)}",
    ]
    over, doubts = report["against"]["default"], []
    if over is not None and over.get("within", True) and over["verdict"] in (statistics.SAME, statistics.LESS):
        reasons.insert(0, "no gain: Triton's default settings are as good, as far as can be told")
    if unknown:
        doubts.append(
            f"cannot say whether that is faster than {' and '.join(unknown)}: give more --repeats, or a longer --duration-s"
        )
    if latency["mean"] + latency["half_width"] > slo.limit_us:
        doubts.append(
            f"cannot say for sure that it keeps {slo.text}: the interval of its {slo.percentile} reaches further"
        )
    if pick["client_limited"]:
        doubts.append(f"{LOUD}: it used {pick['client_cpu_share']:.0%} of a core; read the rate as a lower bound")
    return {"status": "inconclusive" if doubts else "pass", "reasons": [*reasons, *doubts, *tail]}


def _comparisons(against: Mapping[str, dict[str, Any] | None]) -> list[str]:
    return [f"over {NAMES[role]} ({row['label']}): {row['words']}" for role, row in against.items() if row is not None]


def _missed(finals: list[dict[str, Any]], search: Search, slo: Slo) -> str:
    nearest = search.nearest
    if nearest is None:
        return "no setting returned correct answers: see the points"
    if finals:
        row = min(finals, key=lambda row: row[f"{slo.percentile}_us"]["mean"])
        latency = row[f"{slo.percentile}_us"]
        return (
            f"no setting kept {slo.text} when it was measured again: the nearest was {row['label']} · {row['users']} in flight, "
            f"{slo.percentile} {latency['mean'] / 1000:.2f} ± {latency['half_width'] / 1000:.2f} ms"
        )
    if nearest.latency_us <= slo.limit_us:
        return f"nothing could be measured again, so no setting is known to keep {slo.text}"
    best = f"best {slo.percentile} was {nearest.latency_us / 1000:.2f} ms"
    floor = search.floor
    # a percentile of a short look may be the machine's noise; where not one answer was fast enough, it is not
    if floor is not None and floor.healthy and all(r.detail.latency_us["min"] > slo.limit_us for r in floor.readings):
        found = f"the SLO cannot be met: {best} where {slo.text} is asked"
    else:
        found = f"none of the {console.many(len(search.trials), 'point')} tried kept {slo.text}: {best}"
    return f"{found} ({nearest.candidate.label}); {_in_flight(search)}"


def _in_flight(search: Search) -> str:
    users = sorted({trial.candidate.users for trial in search.trials.values()})
    return f"tried with {users[0]} to {users[-1]} in flight" if len(users) > 1 else f"all had {users[0]} in flight"


def _show(report: dict[str, Any], folder: Path) -> None:
    key = f"{report['slo']['percentile']}_us"
    rows = [(row["number"], *_cells(row, key), row["looks"], row["fate"]) for row in report["points"]]
    columns = [
        "#",
        "setting",
        "in flight",
        "infer/sec (95%)",
        f"{report['slo']['percentile']} ms",
        "looks",
        "what became of it",
    ]
    console.table(f"{report['model']}: tried for {report['slo']['text']}", columns, rows)
    if report["finals"]:
        finals = [(*_cells(row, key), ", ".join(row["roles"])) for row in report["finals"]]
        console.table("measured again, interleaved", [*columns[1:5], "is"], finals)
    for why in report["skipped"]:
        console.say(f"skipped: {why}")
    verdict = report["verdict"]
    console.say(f"verdict: {verdict['status']}" + "".join(f"\n  {reason}" for reason in verdict["reasons"]))
    console.say(f"report: {folder / 'report.html'}")


def _cells(row: dict[str, Any], key: str) -> tuple[object, ...]:
    rate = row["throughput_per_s"]
    return (
        row["label"],
        row["users"],
        f"{rate['mean']:.0f} ± {rate['half_width']:.0f}",
        f"{row[key]['mean'] / 1000:.2f}",
    )
