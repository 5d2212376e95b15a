"""How much of a difference between two runs, or two sets of runs, is noise.

In      typed rows of reports (`records.Row`).
Out     `Interval`s at 99% of one run's figures, and the interval of a change.

Several runs a side: Welch's t over the runs (B. L. Welch, Biometrika 34, 1947; `statistics.change`). One run against several: the t
of a single observation, assumed to scatter like the several (Crawford & Howell, Clinical Neuropsychologist 12, 1998); that is
Student's pooled t with one value on one side.

One run a side: the noise within the runs. Successive seconds are correlated, so single requests are not independent and are never
counted as if they were.

* Throughput: means of blocks of several seconds ("batch means": Law & Kelton, Simulation Modeling and Analysis, chapter 9).
  The remaining autocorrelation r of the blocks reduces their number to n (1 - r) / (1 + r) (Zwiers & von Storch, Journal of
  Climate 8, 1995), with 1/n added to r, whose estimate is too low by about that (Marriott & Pope, Biometrika 41, 1954).
* A percentile: the order statistics that enclose it by the binomial distribution, whatever the distribution of the latencies
  (David & Nagaraja, Order Statistics, section 7.1). The number of requests used is the effective sample size
  (Woodruff, JASA 47, 1952; Korn & Graubard, Survey Methodology 24, 1998): the variance,
  from block to block, of the share of requests below the percentile, relative to that of independent ones. A report
  keeps two percentiles of each second, so that share is interpolated by the log-normal distribution through these two; this
  affects the width of the interval, never its position.

Two 99% intervals that do not overlap differ with more than 99% confidence. That is intended: several figures are compared at once.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from measure import statistics as stats
from measure.report.records import Row
from measure.report.schema import Second

CONFIDENCE = 0.99
BLOCK_S, MAX_BLOCKS, MIN_BLOCKS = 3.0, 20, 6
LEAST_S = BLOCK_S * MIN_BLOCKS
MAX_CORRELATION = 0.9
_NORMAL = statistics.NormalDist()
_Z = _NORMAL.inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class Interval:
    """Bounds of a figure or of a change; None where the data does not bound it."""

    low: float | None
    high: float | None


@dataclass(frozen=True)
class Spread:
    """The standard error of a mean, and its degrees of freedom."""

    error: float
    freedom: int


def throughput(row: Row) -> Interval | None:
    """Return bounds of the throughput of one run; None where it is too short."""
    rates = [span.answers / span.width_s for span in row.spans]
    spread = _spread(rates, row.spans)
    mean = statistics.fmean(rates) if rates else 0.0
    if spread is None or not mean:
        return None
    reach = _t(spread.freedom) * spread.error / mean * row.throughput_per_s
    return Interval(max(row.throughput_per_s - reach, 0.0), row.throughput_per_s + reach)


def percentile(row: Row, share: float) -> Interval | None:
    """Return bounds of a latency percentile (``0.99``) of one run in µs; None where it is too short."""
    total = sum(count for _, count in row.histogram)
    size = _effective_size(row, share, total)
    if size is None:
        return None
    low, high = (rank and _value_at(row.histogram, rank / size * total) for rank in enclosing(size, share))
    return Interval(low, high)


def apart(base: Interval, new: Interval) -> Interval:
    """Return bounds of the change, as a share of the base, from the bounds of both sides; it excludes 0 where they do not overlap."""
    low = new.low / base.high - 1 if new.low is not None and base.high else None
    high = new.high / base.low - 1 if new.high is not None and base.low else None
    return Interval(low, high)


def change(base: Sequence[float], new: Sequence[float], confidence: float) -> Interval | None:
    """Return bounds of the change of the mean over several runs, as a share of the base; None where there are too few."""
    reference, difference = statistics.fmean(base), statistics.fmean(new) - statistics.fmean(base)
    if not reference or max(len(base), len(new)) < 2:
        return None
    if min(len(base), len(new)) > 1:
        found = stats.change(base, new, confidence)
        # no scatter at all on either side: the integers of a short histogram can be identical
        at = difference / reference
        return Interval(max(found.low, -1.0), found.high) if found else Interval(at, at)
    several = base if len(base) > 1 else new
    error = statistics.stdev(several) * math.sqrt(1 + 1 / len(several))
    reach = stats.t_quantile(confidence, len(several) - 1) * error if error else 0.0
    return Interval(max((difference - reach) / reference, -1.0), (difference + reach) / reference)


def mean(values: Sequence[float]) -> Interval:
    middle = statistics.fmean(values)
    reach = _t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(middle - reach, middle + reach)


def share(base: tuple[int, int], new: tuple[int, int]) -> Interval:
    """Return bounds of the difference of two shares, each given as (count, total).

    Wilson's interval of each, combined as R. G. Newcombe does (Statistics in Medicine 17, 1998, method 10).

    Example:
        >>> found = share((0, 1000), (50, 1000))
        >>> round(found.low, 3), round(found.high, 3)
        (0.034, 0.071)
    """
    (p, low, high), (q, new_low, new_high) = _wilson(*base), _wilson(*new)
    return Interval(q - p - math.hypot(q - new_low, high - p), q - p + math.hypot(new_high - q, p - low))


def _wilson(count: int, total: int) -> tuple[float, float, float]:
    from scipy.stats import binomtest

    count = min(count, total)
    found = binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return count / total, float(found.low), float(found.high)


def enclosing(number: int, share: float) -> tuple[int | None, int | None]:
    """Return the ranks (from 1) of `number` independent values that enclose a percentile; None for no bound.

    Example:
        >>> enclosing(100, 0.5), enclosing(100, 0.99)
        ((37, 64), (96, None))
    """
    from scipy.stats import binom

    tail = (1 - CONFIDENCE) / 2
    low, high = int(binom.ppf(tail, number, share)), int(binom.isf(tail, number, share)) + 1
    return low or None, high if high <= number else None


def _effective_size(row: Row, share: float, total: int) -> int | None:
    """Return the effective sample size for a percentile; None where it cannot be estimated."""
    spans = [span for span in row.spans if span.answers]
    answers = sum(span.answers for span in spans)
    if not answers or not total:
        return None
    value = _value_at(row.histogram, share * total)
    below = [_below(span, value) for span in spans]
    mean = sum(span.answers * part for span, part in zip(spans, below, strict=True)) / answers
    spread = _spread([span.answers * (part - mean) for span, part in zip(spans, below, strict=True)], spans)
    if spread is None:
        return None
    variance = (spread.error * len(spans) / answers) ** 2
    if_independent = share * (1 - share) / answers
    uncertainty = (_Z / _t(spread.freedom)) ** 2
    return max(1, int(total * uncertainty / max(1.0, variance / if_independent)))


def _below(span: Second, value_us: float) -> float:
    """Return the share of a second's answers below a value, by the log-normal distribution through its p50 and p99."""
    if span.answers < 3 or span.p99_us <= max(span.p50_us, 1.0):
        return float(value_us >= span.p50_us)
    first, last = (_NORMAL.inv_cdf(math.ceil(p * span.answers) / (span.answers + 1)) for p in (0.5, 0.99))
    middle = math.log(max(span.p50_us, 1.0))
    place = (math.log(max(value_us, 1.0)) - middle) / (math.log(span.p99_us) - middle)
    return _NORMAL.cdf(first + place * (last - first))


def _spread(values: Sequence[float], spans: Sequence[Second]) -> Spread | None:
    """Return the standard error of the mean of successive values; None where they make too few blocks."""
    width_s = spans[0].width_s if spans else 1.0
    size = max(math.ceil(BLOCK_S / width_s), len(values) // MAX_BLOCKS)
    count = len(values) // size
    if count < MIN_BLOCKS:
        return None
    start = len(values) - count * size
    blocks = [statistics.fmean(values[at : at + size]) for at in range(start, len(values), size)]
    mean = statistics.fmean(blocks)
    off = [block - mean for block in blocks]
    squares = sum(x * x for x in off)
    if not squares:
        return Spread(0.0, count - 1)
    correlation = sum(x * y for x, y in zip(off, off[1:], strict=False)) / squares + 1 / count
    correlation = min(max(correlation, 0.0), MAX_CORRELATION)
    effective = max(count * (1 - correlation) / (1 + correlation), 2.0)
    return Spread(math.sqrt(squares / (count - 1) / effective), max(1, int(effective - 1)))


def _value_at(histogram: Sequence[tuple[int, int]], rank: float) -> float:
    seen = 0
    for value, count in histogram:
        seen += count
        if seen >= rank:
            return float(value)
    return float(histogram[-1][0])


def _t(freedom: int) -> float:
    return stats.t_quantile(CONFIDENCE, freedom)
