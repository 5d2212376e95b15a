"""The figures of two sides, each with its change, its interval and a word: better, worse, no change, cannot say.

In      run records of both sides, one or several each.
Out     the comparison as a JSON value, with a verdict.

How far noise reaches is found in `noise`, and what that means by `statistics.judge`.
Three things count by rule: failures or wrong answers where there were none,
and an SLO that was met and is missed, unless p99's own interval still reaches it. With several runs a side, the confidence
is raised by the number of models and protocols (Bonferroni). The figures of one move together and count as one, unless a side
has fewer than three runs: then each figure's own guess of the scatter decides, and those do not move together.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from measure import statistics as stats
from measure.compare import differences as environment_differences
from measure.compare import noise
from measure.compare.noise import CONFIDENCE, Interval
from measure.report.records import Key, Record, Row
from planwright.decimals import exact, scaled
from planwright.errors import Fault, SpecError

SCHEMA_VERSION = 1
BETTER, WORSE, SAME, UNKNOWN = "better", "worse", "no change", "cannot say"
PERCENTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
SPEEDS = ("throughput", *PERCENTILES)
FEW_RUNS = 3
TOO_SHORT = f"too short to tell: {noise.LEAST_S:.0f} s after the warm-up are the least, or several runs a side"
ONE_RUN = (
    "one run a side: the intervals know the noise inside the runs, not that from run to run; a verdict that must hold needs "
    "several runs a side (--base A B C --new D E F)"
)


@dataclass(frozen=True)
class Figure:
    """One figure of both sides; `change` and its bounds are shares of the base, of failures and wrong answers shares of the requests."""

    name: str
    unit: str
    base: float
    new: float
    change: float | None
    low: float | None
    high: float | None
    word: str
    why: str = ""


def compare(base: Sequence[Record], new: Sequence[Record], *, strict: bool = False) -> dict[str, Any]:
    """Return the comparison as a JSON value.

    Raises:
        SpecError: The sides have nothing in common, a run is given twice; with `strict`, they differ in what they measured.
    """
    keys, differences = environment_differences.common(base, new), environment_differences.differences(base, new)
    faults = [*_twice(base), *_twice(new), *(difference.fault() for difference in differences if strict)]
    faults += [] if keys else [_nothing_common(base, new)]
    if faults:
        raise SpecError(*faults)
    several = len(base) + len(new) > 2
    apart = len(SPEEDS) if min(len(base), len(new)) < FEW_RUNS else 1
    confidence = 1 - (1 - CONFIDENCE) / (len(keys) * apart)
    pairs = [_pair(key, base, new, confidence) for key in keys]
    return {
        "schema": SCHEMA_VERSION, "kind": "comparison", "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "confidence": CONFIDENCE, "noise": "between runs" if several else "within runs",
        "base": [_told(record) for record in base], "new": [_told(record) for record in new],
        "warnings": [{**asdict(difference), "text": difference.words} for difference in differences],
        "notes": [*([] if several else [ONE_RUN]), *_doubts("base", base), *_doubts("new", new)],
        "models": pairs, "verdict": _verdict(pairs),
    }  # fmt: skip


def _nothing_common(base: Sequence[Record], new: Sequence[Record]) -> Fault:
    names = [sorted({row.name for record in side for row in record.rows.values()}) for side in (base, new)]
    why = f"the base measured {', '.join(names[0]) or 'nothing'}; the new measured {', '.join(names[1]) or 'nothing'}"
    return Fault("the runs have nothing in common", why=why, fix="compare runs of the same model and protocol")


def _twice(records: Sequence[Record]) -> list[Fault]:
    seen: set[str] = set()
    faults = []
    for record in records:
        if record.id and record.id in seen:
            faults.append(Fault("a run is given twice on one side", record.where, fix="name each run once"))
        seen.add(record.id)
    return faults


def _told(record: Record) -> dict[str, Any]:
    keep = ("id", "created", "duration_s", "warmup_s", "users", "environment")
    told = {name: record.report.get(name) for name in keep}
    return {**told, "load": record.load, "verdict": record.report["verdict"].get("status", "")}


def _doubts(side: str, records: Sequence[Record]) -> list[str]:
    """Return what the runs themselves doubt; that they failed is in the figures."""
    verdicts = [(record.id, record.report["verdict"]) for record in records]
    return [
        f"{side} {name} is inconclusive by itself: {reason}"
        for name, verdict in verdicts
        if verdict.get("status") == "inconclusive"
        for reason in verdict.get("reasons", [])
    ]


def _pair(key: Key, base: Sequence[Record], new: Sequence[Record], confidence: float) -> dict[str, Any]:
    rows = [[record.rows[key] for record in side if key in record.rows] for side in (base, new)]
    figures = [
        *(_speed(name, rows[0], rows[1], confidence) for name in SPEEDS),
        _count("failures", [sum(r.failures for r in side) for side in rows], [sum(r.requests for r in side) for side in rows]),
        _count("wrong answers", [sum(r.wrong for r in side) for side in rows], [sum(r.checked for r in side) for side in rows]),
    ]  # fmt: skip
    slo = _slo(rows[0], rows[1], next(figure.word for figure in figures if figure.name == "p99"))
    curves = {name: [row.percentiles for row in side] for name, side in zip(("base", "new"), rows, strict=True)}
    return {
        "model": key[0], "protocol": key[1], "figures": [asdict(figure) for figure in figures],
        "slo": slo, "curves": curves,
    }  # fmt: skip


def _figure(
    name: str,
    unit: str,
    sides: Sequence[float],
    change: float | None,
    bounds: Interval | None,
    word: str,
    why: str = "",
) -> Figure:
    bounds = bounds or Interval(None, None)
    return Figure(name, unit, sides[0], sides[1], change, bounds.low, bounds.high, word, why)


def _value(row: Row, name: str) -> float:
    return row.throughput_per_s if name == "throughput" else row.latency_us[name]


def _own(row: Row, name: str) -> Interval | None:
    return noise.throughput(row) if name == "throughput" else noise.percentile(row, PERCENTILES[name])


def _speed(name: str, base: Sequence[Row], new: Sequence[Row], confidence: float) -> Figure:
    """Compare throughput or a percentile."""
    values = [[_value(row, name) for row in side] for side in (base, new)]
    means = [statistics.fmean(side) for side in values]
    unit = "infer/s" if name == "throughput" else "µs"
    if not all(means):
        side = "base" if not means[0] else "new"
        why = f"nothing was answered after the warm-up in the {side}"
        return _figure(name, unit, means, None, None, UNKNOWN, why)
    change = means[1] / means[0] - 1
    if len(base) + len(new) > 2:
        found = noise.change(values[0], values[1], confidence)
    else:
        own = [_own(side[0], name) for side in (base, new)]
        found = noise.apart(own[0], own[1]) if own[0] and own[1] else None
    if found is None:
        return _figure(name, unit, means, change, None, UNKNOWN, TOO_SHORT)
    word, why = judge(change, found, more_is_better=name == "throughput")
    return _figure(name, unit, means, change, found, word, why)


def judge(change: float, bounds: Interval, *, more_is_better: bool) -> tuple[str, str]:
    """Return the word for a change and, where nothing can be said, why.

    Example:
        >>> judge(-0.2, Interval(-0.23, -0.17), more_is_better=True)
        ('worse', '')
        >>> judge(0.05, Interval(-0.4, 0.5), more_is_better=True)[0]
        'cannot say'
    """
    word = stats.judge(change, bounds.low, bounds.high)
    if word == stats.UNKNOWN:
        unbounded = bounds.low is None or bounds.high is None
        why = "too few independent requests to bound it" if unbounded else stats.TOO_NOISY
        return UNKNOWN, f"{why}: run longer" if unbounded else f"{why}: run longer, or several times"
    words = {stats.MORE: BETTER, stats.LESS: WORSE, stats.SAME: SAME}
    return words[word if more_is_better else {stats.MORE: stats.LESS, stats.LESS: stats.MORE}.get(word, word)], ""


def _count(name: str, bad: Sequence[int], of: Sequence[int]) -> Figure:
    """Compare failures or wrong answers: any where there were none is worse, else the shares decide."""
    if not all(of):
        side = "base" if not of[0] else "new"
        why = f"none was checked in the {side}" if name == "wrong answers" else f"nothing was asked in the {side}"
        word = WORSE if bad[1] and not bad[0] else UNKNOWN
        return _figure(name, "count", bad, None, None, word, why)
    shares = noise.share((bad[0], of[0]), (bad[1], of[1]))
    word = SAME
    if bad[1] and (not bad[0] or (shares.low is not None and shares.low > 0)):
        word = WORSE
    elif shares.high is not None and shares.high < 0:
        word = BETTER
    return _figure(name, "count", bad, bad[1] / of[1] - bad[0] / of[0], shares, word)


def _slo(base: Sequence[Row], new: Sequence[Row], p99: str) -> dict[str, Any] | None:
    """Compare whether the SLO is met; each side has its own limit, usually the same. `p99` is the word of that figure."""
    limits = [next((row.slo_us for row in side if row.slo_us), None) for side in (base, new)]
    if limits[1] is None:
        return None
    means = [statistics.fmean(row.latency_us["p99"] for row in side) for side in (base, new)]
    met = [0 < means[0] <= (limits[0] or limits[1]), 0 < means[1] <= limits[1]]
    word, why = SAME, ""
    if met[0] != met[1]:
        word = WORSE if met[0] else BETTER
        if p99 != word and _reaches(new, limits[1], missed=word == WORSE):
            word, why = UNKNOWN, "p99's own interval lies on both sides of it"
    told = ["met" if kept else "missed" for kept in met]
    return {"p99_ms": scaled(limits[1], "0.001"), "base": told[0], "new": told[1], "word": word, "why": why}


def _reaches(rows: Sequence[Row], limit_us: float, *, missed: bool) -> bool:
    """Return whether p99's own interval reaches over the limit; False for a run too short to have one, whose figure counts."""
    own = noise.percentile(rows[0], 0.99) if len(rows) == 1 else noise.mean([row.latency_us["p99"] for row in rows])
    if own is None:
        return False
    edge = own.low if missed else own.high
    return edge is None or (edge <= limit_us if missed else edge > limit_us)


def _verdict(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Say fail where something is worse, inconclusive where something could not be told, else pass."""
    worse, better, unknown = (
        [f"{_name(pair)}: {_sentence(row)}" for pair in pairs for row in _judged(pair) if row["word"] == word]
        for word in (WORSE, BETTER, UNKNOWN)
    )
    status = "fail" if worse else "inconclusive" if unknown else "pass"
    return {"status": status, "reasons": [*worse, *(line for pair in pairs for line in _untold(pair)), *better]}


def _judged(pair: dict[str, Any]) -> list[dict[str, Any]]:
    slo = pair["slo"]
    return [*pair["figures"], *([{**slo, "name": f"the SLO of {exact(slo['p99_ms'])} ms"}] if slo else [])]


def _name(pair: dict[str, Any]) -> str:
    return f"{pair['model']} over {pair['protocol']}"


def _sentence(row: dict[str, Any]) -> str:
    if "unit" not in row:
        return f"{row['name']} was {row['base']} and is {row['new']}"
    return f"{row['name']} {row['word']}, {value_text(row, 'base')} before and {value_text(row, 'new')} now"


def _untold(pair: dict[str, Any]) -> Iterator[str]:
    """Yield one line per reason, with the figures that it keeps from being told."""
    rows = [row for row in _judged(pair) if row["word"] == UNKNOWN]
    for why in dict.fromkeys(row["why"] for row in rows):
        names = ", ".join(row["name"] for row in rows if row["why"] == why)
        yield f"{_name(pair)}: cannot say for {names}: {why}"


def value_text(figure: dict[str, Any], side: str) -> str:
    """Return a figure of one side with its unit, for people."""
    value = figure[side]
    if figure["unit"] == "µs":
        return f"{value / 1000:.2f} ms" if value < 100_000 else f"{value / 1000:.0f} ms"
    return f"{value:,.1f}" if figure["unit"] == "infer/s" else f"{value:,.0f}"


def bounds_text(figure: dict[str, Any]) -> str:
    """Return ``-23.0% to -17.0%``; a bound that the data does not give is ``?``."""
    if figure["low"] is None and figure["high"] is None:
        return "–"
    low, high = (f"{figure[name]:+.1%}" if figure[name] is not None else "?" for name in ("low", "high"))
    return f"{low} to {high}"


def change_text(figure: dict[str, Any]) -> str:
    """Return ``-20.0%``."""
    return "–" if figure["change"] is None else f"{figure['change']:+.1%}"
