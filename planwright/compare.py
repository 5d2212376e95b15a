"""Decide whether an answer is correct, for verify, validate and the load test alike.

In      expected and actual arrays ``(samples, ...)`` of one output, and a `Tolerance`.
Out     an `OutputCheck` with the worst figures over the samples and the reason of a failure.

Errors are taken per sample: ``relative`` is max|actual-expected| / max|expected| (infinity norm), so one near-zero
element does not decide; ``cosine`` is over the flattened sample. Integers, booleans and text must be equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from planwright.golden import Golden
from planwright.tensors import Array, encode_text, is_text

_FLOATS = "fV"  # numpy kinds compared by distance; V is ml_dtypes' bfloat16
DISTINCT_SHARE = 0.95  # share of golden pairs that must differ, or a swapped answer could pass (DESIGN section 1)


@dataclass(frozen=True)
class Tolerance:
    """What counts as a correct answer; None switches a criterion off.

    Attributes:
        relative: Largest allowed relative error per sample (infinity norm).
        absolute: Errors up to this pass, whatever the relative error is.
        cosine: Least allowed cosine similarity per sample.
        top1: Least allowed share of samples whose largest element is the same.
        equal: Least allowed share of equal elements, for integers and text.
    """

    relative: float | None = 1e-3
    absolute: float = 1e-5
    cosine: float | None = 0.9999
    top1: float | None = None
    equal: float = 1.0

    def as_dict(self) -> dict[str, float | None]:
        """Return a JSON value."""
        return asdict(self)


# Defaults per precision: FP16 and BF16 carry 11 and 8 bits of significand, INT8 and FP8 are judged by their direction.
DEFAULTS: dict[str, Tolerance] = {
    "fp32": Tolerance(),
    "tf32": Tolerance(relative=5e-3, absolute=1e-4, cosine=0.9999),
    "fp16": Tolerance(relative=1e-2, absolute=1e-3, cosine=0.999),
    "bf16": Tolerance(relative=5e-2, absolute=1e-2, cosine=0.995),
    "int8": Tolerance(relative=None, absolute=0.0, cosine=0.98),
    "fp8": Tolerance(relative=None, absolute=0.0, cosine=0.98),
}


@dataclass(frozen=True)
class OutputCheck:
    """The worst figures of one output over all samples, and the verdict."""

    output: str
    samples: int
    absolute: float
    relative: float
    cosine: float
    top1: float
    equal: float
    passed: bool
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON value."""
        return asdict(self)


def compare(name: str, expected: Array, actual: Array, tolerance: Tolerance) -> OutputCheck:
    """Compare one output over a batch of samples.

    Args:
        name: Output name, for the reason.
        expected: ``(samples, ...)``.
        actual: The same shape; NaN anywhere fails unless `expected` has it there too.
        tolerance: What is allowed.

    Example:
        >>> compare("y", np.ones((2, 3)), np.ones((2, 3)), Tolerance()).passed
        True
        >>> compare("y", np.ones((2, 3)), np.full((2, 3), 1.1), Tolerance()).reason
        'relative error 0.1 > 0.001'
    """
    if expected.shape != actual.shape:
        return failed(name, len(expected), f"shape {list(actual.shape)}, expected {list(expected.shape)}")
    if expected.dtype.kind not in _FLOATS or actual.dtype.kind not in _FLOATS:
        return _compare_exact(name, expected, actual, tolerance)
    return _compare_float(name, expected, actual, tolerance)


def merge(checks: list[OutputCheck]) -> OutputCheck:
    """Fold checks of one output over several batches into one: worst errors, mean shares, first reason."""
    samples = sum(check.samples for check in checks)
    top1 = sum(check.top1 * check.samples for check in checks) / max(samples, 1)
    equal = sum(check.equal * check.samples for check in checks) / max(samples, 1)
    errors = max(check.absolute for check in checks), max(check.relative for check in checks)
    cosine, passed = min(check.cosine for check in checks), all(check.passed for check in checks)
    reason = next((check.reason for check in checks if check.reason), "")
    return OutputCheck(checks[0].output, samples, *errors, cosine, top1, equal, passed, reason)


@dataclass(frozen=True)
class Alike:
    """How well golden samples can be distinguished by their answers.

    Attributes:
        distinct: Share of the pairs that some output distinguishes.
        equal: Share of the pairs whose answers are equal bit by bit, as labels and decision trees give them: swapping those is not an error.
        pair: The first pair that is neither, or the first equal one, as sample numbers.
        fatal: True where a wrong answer could pass for a correct one, or where all answers are equal, so that nothing is proved.
    """

    distinct: float
    equal: float
    pair: tuple[int, int]
    fatal: bool


def indistinct(golden: Golden, tolerances: Mapping[str, Tolerance]) -> Alike | None:
    """Return how well golden samples can be distinguished; None where nearly all pairs can.

    A pair is distinguished when any output differs by more than twice its tolerance, so that a swapped answer fails there.
    """
    near: list[tuple[int, int]] = []
    equal: list[tuple[int, int]] = []
    total = 0
    for group, i, j in golden.pairs():
        total += 1
        answers = group.outputs
        if all(_same(array[i, ...], array[j, ...], _doubled(tolerances[name])) for name, array in answers.items()):
            alike = all(_identical(array[i, ...], array[j, ...]) for array in answers.values())
            (equal if alike else near).append((i, j))
    distinct = 1 - (len(near) + len(equal)) / max(total, 1)
    if not near + equal or distinct >= DISTINCT_SHARE:
        return None
    fatal = len(equal) == total or len(near) > (1 - DISTINCT_SHARE) * (total - len(equal))
    return Alike(distinct, len(equal) / total, (near or equal)[0], fatal)


def _identical(first: Array, second: Array) -> bool:
    return np.array_equal(first, second, equal_nan=first.dtype.kind in _FLOATS)


def _same(first: Array, second: Array, tolerance: Tolerance) -> bool:
    return compare("", first[None], second[None], replace(tolerance, top1=None)).passed


def _doubled(tolerance: Tolerance) -> Tolerance:
    return Tolerance(
        relative=None if tolerance.relative is None else 2 * tolerance.relative,
        absolute=2 * tolerance.absolute,
        cosine=None if tolerance.cosine is None else 1 - 2 * (1 - tolerance.cosine),
    )


def failed(name: str, samples: int, reason: str) -> OutputCheck:
    """Return the check of an output that cannot be compared."""
    return OutputCheck(name, samples, float("inf"), float("inf"), -1.0, 0.0, 0.0, False, reason)


def _compare_exact(name: str, expected: Array, actual: Array, tolerance: Tolerance) -> OutputCheck:
    if is_text(expected):
        expected, actual = encode_text(expected), encode_text(actual)
    equal = float(np.mean(expected == actual)) if expected.size else 1.0
    passed = equal >= tolerance.equal
    reason = "" if passed else f"equal elements {equal:.4g} < {tolerance.equal:g}"
    gap = 0.0 if passed else 1.0
    return OutputCheck(name, len(expected), gap, gap, 1.0 if passed else 0.0, equal, equal, passed, reason)


def _compare_float(name: str, expected: Array, actual: Array, tolerance: Tolerance) -> OutputCheck:
    count = len(expected)
    want = expected.reshape(count, -1).astype(np.float64)
    have = actual.reshape(count, -1).astype(np.float64)
    if not np.array_equal(_specials(want), _specials(have)):
        return failed(name, count, "NaN or infinity where the expected answer has a number, or vice versa")
    # equal NaNs and infinities have no distance: a mask's -inf must not hide an error beside it
    want, have = (np.where(np.isfinite(array), array, 0.0) for array in (want, have))
    error = np.abs(want - have).max(axis=1, initial=0.0)
    scale = np.abs(want).max(axis=1, initial=0.0)
    relative = error / np.maximum(scale, np.finfo(np.float32).tiny)
    cosine = _cosine(want, have)
    top1 = want.argmax(axis=1) == have.argmax(axis=1) if want.shape[1] else np.ones(count, bool)
    close = np.isclose(want, have, rtol=1e-6, atol=tolerance.absolute)
    reason = _why(error, relative, cosine, float(top1.mean()), tolerance)
    worst = (float(error.max()), float(relative.max()), float(cosine.min()))
    return OutputCheck(name, count, *worst, float(top1.mean()), float(close.mean()), not reason, reason)


def _specials(array: Array) -> Array:
    """Return 0 for a number, and distinct codes for NaN, infinity and minus infinity."""
    found: Array = np.where(np.isnan(array), 2, np.where(np.isinf(array), np.sign(array), 0))
    return found


def _cosine(want: Array, have: Array) -> Array:
    norms = np.linalg.norm(want, axis=1) * np.linalg.norm(have, axis=1)
    both_zero = (np.abs(want).max(axis=1, initial=0.0) == 0) & (np.abs(have).max(axis=1, initial=0.0) == 0)
    dots = np.einsum("ij,ij->i", want, have)
    cosine: Array = np.where(both_zero, 1.0, dots / np.where(norms == 0, 1.0, norms))
    return cosine


def _why(error: Array, relative: Array, cosine: Array, top1: float, tolerance: Tolerance) -> str:
    """Return the first criterion that is not met; an error within `absolute` passes every criterion."""
    judged = error > tolerance.absolute
    if tolerance.relative is not None and (judged & (relative > tolerance.relative)).any():
        return f"relative error {relative[judged].max():.3g} > {tolerance.relative:g}"
    if tolerance.cosine is not None and (judged & (cosine < tolerance.cosine)).any():
        return f"cosine {cosine[judged].min():.7g} < {tolerance.cosine:.7g}"
    if tolerance.top1 is not None and top1 < tolerance.top1:
        return f"top-1 agreement {top1:.3f} < {tolerance.top1:g}"
    return ""
