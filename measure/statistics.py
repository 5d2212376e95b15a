"""Means with intervals, and whether two settings differ: `judge` is the one rule for sweep, tune and compare.

In      a few repeated measurements per setting.
Out     mean, half width of the 95% interval, the difference of two settings with its interval, a verdict in words.

Student's t for the mean of a few repeats; two settings are compared by Welch's t with Welch–Satterthwaite degrees of freedom
(B. L. Welch, Biometrika 34, 1947). "Gain" needs 99% confidence, so that comparing a setting with itself seldom finds one.
The relative change treats the mean of the base as exact.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

INTERVAL, GAIN = 0.95, 0.99
MORE, LESS, SAME, UNKNOWN = "gain", "loss", "no gain", "cannot say"
SMALLEST = 0.01  # a smaller change comes from rounding and from the edges of a run: it is not worth acting on
WIDEST = 0.25  # an interval that extends further would hide a change of a quarter, so it shows nothing
TOO_NOISY = f"the noise would hide a change of {WIDEST:.0%}"


def judge(change: float, low: float | None, high: float | None) -> str:
    """Return the verdict on a change and its bounds, all relative to the base; None is a bound that the data does not give.

    Example:
        >>> judge(0.3, 0.2, 0.4), judge(0.01, -0.05, 0.07), judge(0.54, -1.0, 2.08), judge(0.05, -0.02, None)
        ('gain', 'no gain', 'cannot say', 'cannot say')
    """
    if low is not None and low > 0 and change >= SMALLEST:
        return MORE
    if high is not None and high < 0 and change <= -SMALLEST:
        return LESS
    if low is None or high is None or max(abs(low), abs(high)) > WIDEST:
        return UNKNOWN
    return SAME


@dataclass(frozen=True)
class Change:
    """Relative difference of two settings: 0.1 is ten percent more; `low` and `high` bound it."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        return judge(self.mean, self.low, self.high)

    @property
    def words(self) -> str:
        """Return ``gain +31% (+24% to +38%)``."""
        word = f"{self.verdict}:" if self.verdict == UNKNOWN else self.verdict
        return f"{word} {self.mean:+.0%} ({max(self.low, -1.0):+.0%} to {self.high:+.0%})"


@functools.cache
def t_quantile(probability: float, freedom: float) -> float:
    """Return the two-sided quantile of Student's t.

    Example:
        >>> round(t_quantile(0.95, 2), 3), round(t_quantile(0.99, 10), 3)
        (4.303, 3.169)
    """
    from scipy.stats import t

    return float(t.ppf((1 + probability) / 2, freedom))


def interval(values: Sequence[float]) -> dict[str, object]:
    """Return mean, half width of the 95% interval and the values; the half width of one value is 0."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "half_width": 0.0, "values": list(values)}
    error = statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "half_width": error * t_quantile(INTERVAL, len(values) - 1), "values": list(values)}


def change(base: Sequence[float], other: Sequence[float], confidence: float = GAIN) -> Change | None:
    """Return what `other` gains over `base`; None where there is too little to say.

    Example:
        >>> change([100.0, 101.0, 99.0, 100.0], [130.0, 131.0, 129.0, 132.0]).verdict
        'gain'
    """
    if len(base) < 2 or len(other) < 2:
        return None
    mean, reference = statistics.fmean(other), statistics.fmean(base)
    parts = [statistics.variance(values) / len(values) for values in (base, other)]
    error = math.sqrt(sum(parts))
    if not reference or not error:
        return None
    terms = (part**2 / (len(values) - 1) for part, values in zip(parts, (base, other), strict=True))
    freedom = sum(parts) ** 2 / sum(terms)
    reach = t_quantile(confidence, max(freedom, 1.0)) * error
    low, high = ((mean - reference + sign * reach) / reference for sign in (-1, 1))
    return Change((mean - reference) / reference, low, high)


def verdict(base: Sequence[float], other: Sequence[float]) -> str:
    """Return the verdict of `judge` on what `other` gains over `base`; with too few repeats it is "cannot say"."""
    found = change(base, other)
    return found.verdict if found else UNKNOWN


def compare(base: Sequence[float], other: Sequence[float]) -> str:
    """Describe what `other` gains over `base`: ``gain +31% (+24% to +38%)``, ``no gain`` or ``cannot say`` with its interval.

    Example:
        >>> compare([100.0, 101.0, 99.0], [100.5, 99.5, 101.0])[:7]
        'no gain'
    """
    if len(base) < 2 or len(other) < 2:
        return "one repeat: no verdict"
    found = change(base, other)
    return found.words if found else "no verdict"


def ratio(pairs: Iterable[tuple[float, float]], confidence: float = INTERVAL) -> Change:
    """Return the ratio of the second of each pair to the first, minus one; each pair was measured back to back.

    The logarithms of the ratios are averaged, so that A over B is the inverse of B over A.

    Example:
        >>> round(ratio([(100.0, 110.0), (50.0, 55.0)]).mean, 3)
        0.1
    """
    logs = [math.log(second / first) for first, second in pairs]
    mean = statistics.fmean(logs)
    error = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    reach = error * t_quantile(confidence, len(logs) - 1) if error and len(logs) > 1 else error
    return Change(math.expm1(mean), math.expm1(mean - reach), math.expm1(mean + reach) if reach < 700 else math.inf)


@dataclass(frozen=True)
class Scatter:
    """Relative standard deviation of the repeats of one setting, assumed to be the same for all settings.

    Two repeats alone say next to nothing about their scatter; those of all settings together do. Until there are some, a
    guess counts as much as `freedom` repeats.
    """

    share: float
    freedom: float

    def reach(self, counts: Iterable[int], confidence: float = GAIN) -> float:
        """Return how far two means of that many repeats (or one mean) may differ by chance, as a logarithm."""
        error = self.share * math.sqrt(sum(1 / count for count in counts))
        return t_quantile(confidence, self.freedom) * error


def scatter(groups: Iterable[Sequence[float]], guess: float = 0.03, weight: int = 4) -> Scatter:
    """Pool the scatter of positive values over all settings.

    Example:
        >>> scatter([[100.0, 104.0], [50.0, 51.0]]).freedom
        6
    """
    squares, freedom = guess**2 * weight, weight
    for values in groups:
        logs = [math.log(value) for value in values if value > 0]
        if len(logs) > 1:
            squares += statistics.variance(logs) * (len(logs) - 1)
            freedom += len(logs) - 1
    return Scatter(math.sqrt(squares / freedom), freedom)
