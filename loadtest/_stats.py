"""Means with intervals, and whether two settings differ.

In      a few repeated measurements per setting.
Out     mean, half width of the 95% interval, a verdict in words.

Student's t for the mean of few repeats; two settings are compared by Welch's t with Welch–Satterthwaite degrees of freedom
(B. L. Welch, Biometrika 34, 1947). "Gain" needs 99% confidence, so that comparing a setting with itself seldom finds one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

INTERVAL, GAIN = 0.95, 0.99


def t_quantile(probability: float, freedom: float) -> float:
    """Return the two-sided quantile of Student's t, found by bisection of its distribution.

    Example:
        >>> round(t_quantile(0.95, 2), 3), round(t_quantile(0.99, 10), 3)
        (4.303, 3.169)
    """
    low, high = 0.0, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _two_sided(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _two_sided(t: float, freedom: float) -> float:
    """Return P(|T| < t) by integrating the density over the angle atan(t / sqrt(freedom)), where it is smooth."""
    steps, top = 2000, math.atan(t / math.sqrt(freedom))
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    width = top / steps
    total = sum(math.cos(width * (step + 0.5)) ** (freedom - 1) for step in range(steps))
    return float(2 * scale * total * width)


def interval(values: Sequence[float]) -> dict[str, object]:
    """Return mean, half width of the 95% interval and the values; the half width of one value is 0."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "half_width": 0.0, "values": list(values)}
    error = statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "half_width": error * t_quantile(INTERVAL, len(values) - 1), "values": list(values)}


def compare(base: Sequence[float], other: Sequence[float]) -> str:
    """Say in words what `other` gains over `base`: ``+31% (24% to 38%)``, or ``no gain`` with its interval.

    Example:
        >>> compare([100.0, 101.0, 99.0], [100.5, 99.5, 101.0])[:7]
        'no gain'
    """
    if len(base) < 2 or len(other) < 2:
        return "one repeat: no verdict"
    mean, reference = statistics.fmean(other), statistics.fmean(base)
    parts = [statistics.variance(values) / len(values) for values in (base, other)]
    error = math.sqrt(sum(parts))
    if not reference or not error:
        return "no verdict"
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (base, other), strict=True)
    )
    reach = t_quantile(GAIN, max(freedom, 1.0)) * error
    low, high = ((mean - reference + sign * reach) / reference for sign in (-1, 1))
    change = (mean - reference) / reference
    words = f"{change:+.0%} ({low:+.0%} to {high:+.0%})"
    if low > 0:
        return f"gain {words}"
    return f"loss {words}" if high < 0 else f"no gain {words}"
