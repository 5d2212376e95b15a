"""The samples of a zoo file, and the checks on them.

In      what `samples()` of a zoo file returned.
Out     `Samples`, checked: every sample has the same inputs, types and ranks, as numpy arrays in native byte order.

Calibration samples may be a lazy sequence, because most precisions need none: they are checked when they are used.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np

from planwright.errors import Fault
from planwright.golden import Array, Arrays
from planwright.tensors import datatype_from_numpy, decode_text, is_text

Sample = Arrays  # input name -> array without a batch axis
LEAST_GOLDEN = 2  # a swap takes two answers


@dataclass(frozen=True)
class Samples:
    """Real inputs by use; a sample is a dict of arrays without a batch axis.

    Attributes:
        calibration: Inputs that set INT8 and FP8 ranges; never among `golden`.
        golden: Inputs whose FP32 answers every later check uses.
        test: Held-out inputs for the task metric; empty if there is none.
        truth: The correct result of each test sample, first axis as long as `test`.
    """

    calibration: Sequence[Sample]
    golden: Sequence[Sample]
    test: Sequence[Sample] = ()
    truth: Array = field(default_factory=lambda: np.zeros(0))


class Later(Sequence[Sample]):
    """Samples that are made when the first of them is accessed, for calibration samples that take long to make.

    Example:
        >>> rows = Later(lambda: [{"x": np.zeros(2)}])
        >>> len(rows)
        1
    """

    def __init__(self, make: Callable[[], Sequence[Sample]]) -> None:
        self._made = functools.cache(make)

    def __len__(self) -> int:
        return len(self._made())

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        return self._made()[index]


def spread(total: int, count: int) -> list[int]:
    """Return `count` of the numbers below `total`, evenly spaced, so that a file sorted by class is fully covered.

    Example:
        >>> spread(10, 3), spread(2, 5)
        ([1, 5, 8], [0, 1])
    """
    count = min(total, count)
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]


def checked(found: Any, names: Sequence[str], where: str, check: str) -> tuple[Samples | None, list[Fault]]:
    """Return usable samples, or None and what is wrong; if `names` is empty, the inputs are those of the first golden sample."""
    if not isinstance(found, Samples):
        fix = "return Samples(calibration=[...], golden=[...]), from builders.sources.base import Samples"
        why = "the function ends without 'return'" if found is None else ""
        return None, [Fault(f"samples() returns {_described(found)}, not Samples", where, why, fix, check)]
    faults = [Fault(*fault, check) for fault in _faults(found, names, where)]
    if faults:
        return None, faults
    golden, test = ([native(sample) for sample in rows] for rows in (found.golden, found.test))
    return replace(found, golden=golden, test=test), []


def native(sample: Mapping[str, Any]) -> Sample:
    """Return a sample as C-contiguous arrays in this machine's byte order, with text as str."""
    return {name: _native(np.asarray(value)) for name, value in sample.items()}


def fingerprint(sample: Sample) -> str:
    """Return a hash of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(sample):
        array = np.ascontiguousarray(sample[name])
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes())
    return digest.hexdigest()


def _native(array: Array) -> Array:
    if is_text(array):
        return decode_text(array)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)


def _faults(found: Samples, names: Sequence[str], where: str) -> Iterator[tuple[str, str, str, str]]:
    parts: dict[str, Any] = {"golden": found.golden, "test": found.test}
    for part, rows in {**parts, "calibration": found.calibration}.items():
        if not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
            yield f"{part} is {_described(rows)}", where, "samples need len() and an index", "make it a list"
            return
    if len(found.golden) < LEAST_GOLDEN:
        fix = f"return at least {LEAST_GOLDEN} golden samples"
        yield f"golden holds {len(found.golden)} samples", where, "every later check compares golden answers", fix
        return
    if len(found.truth) != len(found.test):
        why = f"test holds {len(found.test)} samples, truth {len(found.truth)} values"
        yield "test and truth differ in length", where, why, "give one value of truth per test sample"
    first = found.golden[0]
    for part, rows in parts.items():
        for index, sample in enumerate(rows):
            wrong = sample_fault(sample, first, names)
            if wrong:
                yield f"{part}[{index}]: {wrong[0]}", where, *wrong[1:]
                return


def sample_fault(sample: Any, first: Any, names: Sequence[str]) -> tuple[str, str, str] | None:
    """Return (what, why, fix) for a sample that does not fit the model's inputs or the first sample, else None."""
    if not isinstance(sample, Mapping):
        return f"a sample is {_described(sample)}", "it must name the input of each array", f"{_example(names)}"
    wanted = list(names or first)
    if set(sample) != set(wanted):
        lacks, extra = [n for n in wanted if n not in sample], [n for n in sample if n not in wanted]
        why = "; ".join(f"{word} {', '.join(map(repr, group))}" for word, group in (("it lacks", lacks), ("it has", extra)) if group)  # fmt: skip
        return "its inputs are not the model's", f"{why}; the model's inputs are {', '.join(wanted)}", _example(wanted)
    for name in wanted:
        wrong = _array_fault(name, sample[name], first[name])
        if wrong:
            return wrong
    return None


def _array_fault(name: str, found: Any, first: Any) -> tuple[str, str, str] | None:
    if not isinstance(found, np.ndarray | np.generic):
        fix = f"pass {name}.numpy()" if hasattr(found, "numpy") else f"np.asarray({name}, dtype=...)"
        return f"input '{name}' is {_described(found)}", "a sample holds numpy arrays", fix
    value: Array = np.asarray(found)
    try:
        datatype_from_numpy(value.dtype)
    except KeyError:
        return f"input '{name}' is {value.dtype}", "Triton has no such type", "cast it to a number type, bool or str"
    if is_text(value):
        return _text_fault(name, value, first)
    if value.dtype != first.dtype:
        why = f"golden[0] has {first.dtype}"
        return f"input '{name}' is {value.dtype}", why, f"use one type: .astype(np.{first.dtype})"
    return _rank_fault(name, value, first)


def _text_fault(name: str, value: Array, first: Array) -> tuple[str, str, str] | None:
    """Refuse what is not text, and text that UTF-8 cannot encode, which no client could send."""
    if not is_text(first):
        return f"input '{name}' is text", f"golden[0] has {first.dtype}", "use one type for each input"
    for item in value.ravel():
        try:
            item if isinstance(item, bytes) else item.encode()
        except AttributeError:
            what, why = f"input '{name}' holds {_described(item)}", "an array of objects must hold text"
            return what, why, "use str or numbers"
        except UnicodeEncodeError as error:
            return f"input '{name}' is not valid text", str(error), "clean it: text.encode(errors='replace').decode()"
    return _rank_fault(name, value, first)


def _rank_fault(name: str, value: Array, first: Array) -> tuple[str, str, str] | None:
    if value.ndim != first.ndim:
        why = f"golden[0] has {first.ndim} axes {list(first.shape)}"
        return f"input '{name}' has {value.ndim} axes {list(value.shape)}", why, "a sample has no batch axis"
    return None


def _example(names: Sequence[str]) -> str:
    return "write a sample as {" + ", ".join(f'"{name}": array' for name in names or ("x",)) + "}"


def _described(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
