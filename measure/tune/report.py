"""The outcome and the report of a tune: every point that was tried, the final comparison, the verdict, the cost.

In      a `TuneOutcome`, filled in by `command` as the tune proceeds, so that an error or Ctrl-C loses nothing.
Out     runs/<id>/report.json and report.html; the tables on the terminal.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from measure import statistics
from measure.operating_point import rows as point_rows
from measure.operating_point.measurement import Load
from measure.operating_point.setting import ServingSetting
from measure.report.verdict import LOUD
from measure.tune.search import Candidate, Reading, Search, Trial
from measure.tune.slo import Slo
from planwright import console

NAMES = {"default": "Triton's default settings", "published": "the published setting"}


@dataclass
class TuneOutcome:
    """What a tune found.

    Attributes:
        search: Every candidate that was tried.
        default, published: The settings the pick is compared with.
        finals: Candidate → the readings of the final comparison.
        pick: The best candidate that met the SLO in the final comparison; None where none did.
        stopped_by: Why it ended early.
    """

    search: Search | None = None
    default: ServingSetting | None = None
    published: ServingSetting | None = None
    finals: dict[Candidate, list[Reading]] = field(default_factory=dict)
    pick: Candidate | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    load: Load | None = None
    took_s: float = 0.0
    stopped_by: str = ""

    @property
    def any(self) -> bool:
        return self.search is not None and any(trial.readings for trial in self.search.trials.values())

    def final_trials(self) -> list[Trial]:
        """Return the candidates of the final comparison with their fresh readings only."""
        return [Trial(candidate, readings) for candidate, readings in self.finals.items()]


def save(args: argparse.Namespace, slo: Slo, outcome: TuneOutcome, build: dict[str, Any]) -> dict[str, Any]:
    return point_rows.save_report(args, "tune", outcome.identity, make(args, slo, outcome, build), show_tables)


def make(args: argparse.Namespace, slo: Slo, outcome: TuneOutcome, build: dict[str, Any]) -> dict[str, Any]:
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
    return {**row, "number": number, "looks": len(trial.readings), "within": search.meets(trial), "fate": trial.result}


def _final(candidate: Candidate, found: list[Reading], outcome: TuneOutcome, build: Mapping[str, Any], slo: Slo) -> dict[str, Any]:  # fmt: skip
    row = _row(candidate, found, build)
    named = {"pick": outcome.pick == candidate, "default": outcome.default == candidate.setting,
             "published": outcome.published == candidate.setting}  # fmt: skip
    within = row[f"{slo.percentile}_us"]["mean"] <= slo.limit_us and not row["failures"]
    return {**row, "roles": [role for role, holds in named.items() if holds], "within": within}


def _row(candidate: Candidate, found: list[Reading], build: Mapping[str, Any]) -> dict[str, Any]:
    row = point_rows.point(candidate.setting, [reading.detail for reading in found], build)
    return {**row, "users": candidate.users}


def _against(finals: list[dict[str, Any]], role: str, outcome: TuneOutcome) -> dict[str, Any] | None:
    """Return how the pick differs from Triton's defaults or the published setting; None without both."""
    pick = next((row for row in finals if "pick" in row["roles"]), None)
    others = [row for row in finals if role in row["roles"] and row is not pick]
    setting = outcome.default if role == "default" else outcome.published
    if pick is None or setting is None:
        return None
    if role in pick["roles"]:
        return {"label": setting.label, "same": True, "words": "the same setting", "verdict": statistics.SAME}
    if not others:
        return {"label": setting.label, "same": False, "words": "not measured", "verdict": statistics.UNKNOWN}
    other = max(others, key=lambda row: (row["within"], row["throughput_per_s"]["mean"]))
    values = [row["throughput_per_s"]["values"] for row in (other, pick)]
    found = statistics.change(*values)
    words = statistics.compare(*values) + ("" if other["within"] else ", but it misses the SLO")
    numbers = {} if found is None else {"change": found.mean, "low": found.low, "high": found.high}
    return {"label": f"{other['label']} · {other['users']} in flight", "same": False, "within": other["within"], "words": words,
            "verdict": statistics.verdict(*values), **numbers}  # fmt: skip


def _verdict(report: dict[str, Any], search: Search, slo: Slo, outcome: TuneOutcome) -> dict[str, Any]:
    took = point_rows.seconds_in_words(report["took_s"])
    tail = [f"tried {console.many(len(report['points']), 'point')} in {took}; stopped: {report['stopped']}"]
    if outcome.stopped_by:
        if search.best:
            tail += [f"best so far: {search.best.candidate.label}: {search.best.throughput_per_s:.0f} infer/sec"]
        status = "inconclusive" if outcome.stopped_by == point_rows.INTERRUPTED else "fail"
        return {"status": status, "reasons": [outcome.stopped_by, *tail]}
    pick = next((row for row in report["finals"] if "pick" in row["roles"]), None)
    if pick is None:
        return {"status": "fail", "reasons": [_missed(report["finals"], search, slo), *tail]}
    rivals = {role: row for role, row in report["against"].items() if row is not None and row.get("within", True)}
    unknown = [NAMES[role] for role, row in rivals.items() if row["verdict"] == statistics.UNKNOWN]
    reasons = [
        _best_line(pick, slo, sure=not unknown),
        *(f"over {NAMES[role]} ({row['label']}): {row['words']}" for role, row in report["against"].items() if row),
        f"this SLO needs {point_rows.costs_in_words(pick)}",
    ]
    if rivals.get("default", {}).get("verdict") in (statistics.SAME, statistics.LESS):
        reasons.insert(0, "no gain: Triton's default settings are as good, as far as the measurements show")
    reservations = _reservations(pick, unknown, slo)
    return {"status": "inconclusive" if reservations else "pass", "reasons": [*reasons, *reservations, *tail]}


def _best_line(pick: dict[str, Any], slo: Slo, *, sure: bool) -> str:
    rate, what = pick["throughput_per_s"], f"{'best' if sure else 'highest measured'} within {slo.text}"
    rates = f"{rate['mean']:.0f} ± {rate['half_width']:.0f} infer/sec"
    return f"{what}: {pick['label']} · {pick['users']} in flight: {rates}, {_latency(pick, slo)}"


def _latency(row: dict[str, Any], slo: Slo) -> str:
    latency = row[f"{slo.percentile}_us"]
    return f"{slo.percentile} {latency['mean'] / 1000:.2f} ± {latency['half_width'] / 1000:.2f} ms"


def _reservations(pick: dict[str, Any], unknown: list[str], slo: Slo) -> list[str]:
    found, latency = [], pick[f"{slo.percentile}_us"]
    if unknown:
        names = " and ".join(unknown)
        found.append(f"cannot say whether the pick is faster than {names}: use more --repeats or a longer --duration-s")
    if latency["mean"] + latency["half_width"] > slo.limit_us:
        why = f"the interval of its {slo.percentile} extends beyond"
        found.append(f"cannot say whether it always meets {slo.text}: {why}")
    if pick["client_limited"]:
        found.append(f"{LOUD}: it used {pick['client_cpu_share']:.0%} of a core; read the rate as a lower bound")
    return found


def _missed(finals: list[dict[str, Any]], search: Search, slo: Slo) -> str:
    nearest = search.nearest
    if nearest is None:
        return "no setting returned correct answers: see the points"
    if finals:
        row = min(finals, key=lambda row: row[f"{slo.percentile}_us"]["mean"])
        closest = f"the closest was {row['label']} · {row['users']} in flight, {_latency(row, slo)}"
        return f"no setting met {slo.text} when it was measured again: {closest}"
    if nearest.latency_us <= slo.limit_us:
        return f"no setting could be measured again, so none is known to meet {slo.text}"
    best = f"the best {slo.percentile} was {nearest.latency_us / 1000:.2f} ms"
    floor = search.floor
    # a percentile of a short measurement may be the machine's noise; where not a single answer was fast enough, it is not
    if floor is not None and floor.healthy and all(r.detail.latency_us["min"] > slo.limit_us for r in floor.readings):
        found = f"the SLO cannot be met: {best}, the SLO is {slo.text}"
    else:
        found = f"none of the {console.many(len(search.trials), 'point')} tried met {slo.text}: {best}"
    return f"{found} ({nearest.candidate.label}); {_in_flight(search)}"


def _in_flight(search: Search) -> str:
    users = sorted({trial.candidate.users for trial in search.trials.values()})
    return f"tried with {users[0]} to {users[-1]} in flight" if len(users) > 1 else f"all had {users[0]} in flight"


def show_tables(report: dict[str, Any]) -> None:
    percentile = report["slo"]["percentile"]
    columns = ["setting", "in flight", "infer/sec (95%)", f"{percentile} ms"]
    rows = [(row["number"], *_cells(row, percentile), row["looks"], row["fate"]) for row in report["points"]]
    title = f"{report['model']}: settings tried for {report['slo']['text']}"
    console.table(title, ["#", *columns, "measured", "result"], rows)
    if report["finals"]:
        finals = [(*_cells(row, percentile), ", ".join(row["roles"])) for row in report["finals"]]
        console.table("final comparison, interleaved", [*columns, "role"], finals)


def _cells(row: dict[str, Any], percentile: str) -> tuple[object, ...]:
    rate = row["throughput_per_s"]
    mean = f"{rate['mean']:.0f} ± {rate['half_width']:.0f}"
    return row["label"], row["users"], mean, f"{row[f'{percentile}_us']['mean'] / 1000:.2f}"
