"""The figures of two sides, each with its change, its interval and a verdict: better, worse, no change, cannot say.

In      run records of both sides, one or several each.
Out     the comparison as a JSON value, with a verdict.

`noise` gives the intervals, `statistics.judge` the verdicts on them. Three changes count as worse by rule: failures or wrong answers
where there were none, and an SLO that was met and is missed, unless the interval of p99 includes it. With several runs a side,
the confidence is raised by the number of models and protocols (Bonferroni). The figures of one model move together and count as one,
unless a side has fewer than three runs: then each figure's own estimate of the scatter decides, and those are independent.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from measure import statistics as stats
from measure.compare import differences as environment_differences
from measure.compare import noise
from measure.compare.noise import CONFIDENCE, Interval
from measure.report.build import utc_now
from measure.report.records import Key, Record, Row
from planwright.decimals import exact, scaled
from planwright.errors import Fault, SpecError

SCHEMA_VERSION = 1
BETTER, WORSE, SAME, UNKNOWN = "better", "worse", "no change", "cannot say"
PERCENTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
SPEEDS = ("throughput", *PERCENTILES)
FEW_RUNS = 3
TOO_SHORT = f"too short to tell: it takes {noise.LEAST_S:.0f} s after the warm-up, or several runs a side"
ONE_RUN = (
    "one run a side: the intervals cover the noise within the runs, not between them; for a reliable verdict measure "
    "several runs a side (--base A B C --new D E F)"
)


@dataclass(frozen=True)
class Figure:
    """One figure of both sides; `change` and its bounds are relative to the base, for failures and wrong answers to the requests."""

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
        SpecError: The sides have nothing in common, or a run is given twice; with `strict`, their conditions differ.
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
        "schema": SCHEMA_VERSION, "kind": "comparison", "created": utc_now(),
        "confidence": CONFIDENCE, "noise": "between runs" if several else "within runs",
        "base": [_summary(record) for record in base], "new": [_summary(record) for record in new],
        "warnings": [{**asdict(difference), "text": difference.words} for difference in differences],
        "notes": [*([] if several else [ONE_RUN]), *_inconclusive("base", base), *_inconclusive("new", new)],
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
            faults.append(Fault("a run is specified twice on one side", record.where, fix="name each run once"))
        seen.add(record.id)
    return faults


def _summary(record: Record) -> dict[str, Any]:
    keep = ("id", "created", "duration_s", "warmup_s", "users", "environment")
    found = {name: record.report.get(name) for name in keep}
    return {**found, "load": record.load, "verdict": record.report["verdict"].get("status", "")}


def _inconclusive(side: str, records: Sequence[Record]) -> list[str]:
    """Return why runs are inconclusive in themselves; failed runs show in the figures."""
    return [
        f"{side} {record.id} is inconclusive in itself: {reason}"
        for record in records
        if record.report["verdict"].get("status") == "inconclusive"
        for reason in record.report["verdict"].get("reasons", [])
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
    shown = [asdict(figure) for figure in figures]
    return {"model": key[0], "protocol": key[1], "figures": shown, "slo": slo, "curves": curves}


def _value(row: Row, name: str) -> float:
    return row.throughput_per_s if name == "throughput" else row.latency_us[name]


def _bounds(row: Row, name: str) -> Interval | None:
    return noise.throughput(row) if name == "throughput" else noise.percentile(row, PERCENTILES[name])


def _speed(name: str, base: Sequence[Row], new: Sequence[Row], confidence: float) -> Figure:
    values = [[_value(row, name) for row in side] for side in (base, new)]
    means = [statistics.fmean(side) for side in values]
    unit = "infer/s" if name == "throughput" else "µs"
    if not all(means):
        why = f"nothing was answered after the warm-up in the {'base' if not means[0] else 'new'}"
        return Figure(name, unit, means[0], means[1], None, None, None, UNKNOWN, why)
    change = means[1] / means[0] - 1
    if len(base) + len(new) > 2:
        found = noise.change(values[0], values[1], confidence)
    else:
        bounds = [_bounds(side[0], name) for side in (base, new)]
        found = noise.apart(bounds[0], bounds[1]) if bounds[0] and bounds[1] else None
    if found is None:
        return Figure(name, unit, means[0], means[1], change, None, None, UNKNOWN, TOO_SHORT)
    word, why = judge(change, found, more_is_better=name == "throughput")
    return Figure(name, unit, means[0], means[1], change, found.low, found.high, word, why)


def judge(change: float, bounds: Interval, *, more_is_better: bool) -> tuple[str, str]:
    """Return the verdict on a change and, where it is "cannot say", the reason.

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
        why = f"no {'answer was checked' if name == 'wrong answers' else 'request was sent'} in the {side}"
        word = WORSE if bad[1] and not bad[0] else UNKNOWN
        return Figure(name, "count", bad[0], bad[1], None, None, None, word, why)
    shares = noise.share((bad[0], of[0]), (bad[1], of[1]))
    word = SAME
    if bad[1] and (not bad[0] or (shares.low is not None and shares.low > 0)):
        word = WORSE
    elif shares.high is not None and shares.high < 0:
        word = BETTER
    return Figure(name, "count", bad[0], bad[1], bad[1] / of[1] - bad[0] / of[0], shares.low, shares.high, word)


def _slo(base: Sequence[Row], new: Sequence[Row], p99: str) -> dict[str, Any] | None:
    """Compare whether the SLO is met; each side has its own limit, usually the same. `p99` is the verdict on that figure."""
    limits = [next((row.slo_us for row in side if row.slo_us), None) for side in (base, new)]
    if limits[1] is None:
        return None
    means = [statistics.fmean(row.latency_us["p99"] for row in side) for side in (base, new)]
    met = [0 < means[0] <= (limits[0] or limits[1]), 0 < means[1] <= limits[1]]
    word, why = SAME, ""
    if met[0] != met[1]:
        word = WORSE if met[0] else BETTER
        if p99 != word and _interval_includes(new, limits[1], missed=word == WORSE):
            word, why = UNKNOWN, "the interval of p99 includes it"
    states = ["met" if kept else "missed" for kept in met]
    return {"p99_ms": scaled(limits[1], "0.001"), "base": states[0], "new": states[1], "word": word, "why": why}


def _interval_includes(rows: Sequence[Row], limit_us: float, *, missed: bool) -> bool:
    """Whether the interval of p99 includes the limit; False for a run too short to have one, whose figure counts."""
    found = noise.percentile(rows[0], 0.99) if len(rows) == 1 else noise.mean([row.latency_us["p99"] for row in rows])
    if found is None:
        return False
    edge = found.low if missed else found.high
    return edge is None or (edge <= limit_us if missed else edge > limit_us)


def _verdict(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return fail where something is worse, inconclusive where something is "cannot say", else pass."""
    worse, better, unknown = (
        [f"{_name(pair)}: {_sentence(row)}" for pair in pairs for row in _judged(pair) if row["word"] == word]
        for word in (WORSE, BETTER, UNKNOWN)
    )
    status = "fail" if worse else "inconclusive" if unknown else "pass"
    return {"status": status, "reasons": [*worse, *(line for pair in pairs for line in _unknown(pair)), *better]}


def _judged(pair: dict[str, Any]) -> list[dict[str, Any]]:
    slo = pair["slo"]
    return [*pair["figures"], *([{**slo, "name": f"the SLO of {exact(slo['p99_ms'])} ms"}] if slo else [])]


def _name(pair: dict[str, Any]) -> str:
    return f"{pair['model']} over {pair['protocol']}"


def _sentence(row: dict[str, Any]) -> str:
    if "unit" not in row:
        return f"{row['name']} changed from {row['base']} to {row['new']}"
    return f"{row['name']} {row['word']}, {value_text(row, 'base')} before and {value_text(row, 'new')} now"


def _unknown(pair: dict[str, Any]) -> Iterator[str]:
    rows = [row for row in _judged(pair) if row["word"] == UNKNOWN]
    for why in dict.fromkeys(row["why"] for row in rows):
        names = ", ".join(row["name"] for row in rows if row["why"] == why)
        yield f"{_name(pair)}: cannot say for {names}: {why}"


def value_text(figure: dict[str, Any], side: str) -> str:
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
    return "–" if figure["change"] is None else f"{figure['change']:+.1%}"
