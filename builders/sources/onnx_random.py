"""Random inputs for an ONNX file without samples.

In      the inputs of the graph; ``options: {dims: ..., ranges: ...}`` of config.yaml.
Out     seeded samples, each made when it is accessed, so that unused ones cost nothing.

They prove that a model is served unchanged. A free axis has 8 elements unless ``dims`` gives another size; integers stay small,
because most are ids or pixels; text is made of the words in the graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from builders.sources.samples import Sample
from planwright.config.spec import ModelSpec
from planwright.errors import Fault, SpecError, did_you_mean
from planwright.golden import Array

FREE_AXIS = 8  # default size of a free axis
HIGH = {"i": 8, "u": 256}
SEED = 17
# besides the graph's own words: letters of one, two, three and four bytes
WORDS = ["yes", "no", "maybe", "red", "green", "blue", "größe", "naïve", "日本", "東京", "🙂", "a-b", "x1", "Straße", "ждать", "né"]  # fmt: skip


@dataclass(frozen=True)
class RandomInput:
    """One input, without a batch axis.

    Attributes:
        name, dtype: As the graph declares them.
        axes: Length of each axis, or its symbol if it is free, which may be empty.
    """

    name: str
    dtype: np.dtype[Any]
    axes: tuple[int | str, ...]

    @property
    def free(self) -> list[str]:
        """Symbols of the free axes, in order."""
        return [axis for axis in self.axes if isinstance(axis, str)]


Inputs = Sequence[RandomInput]


class RandomSamples(Sequence[Sample]):
    """Samples that are made when they are accessed."""

    def __init__(self, inputs: Inputs, spec: ModelSpec, words: Sequence[str], numbers: Sequence[int]) -> None:
        self._inputs, self._numbers, self._words = inputs, numbers, words
        self._shapes, self._ranges = shapes(inputs, spec), ranges(inputs, spec)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        rng = np.random.default_rng([SEED, self._numbers[index]])
        return {i.name: np.asarray(self._draw(rng, i)) for i in self._inputs}

    def _draw(self, rng: np.random.Generator, item: RandomInput) -> Any:
        shape, kind = self._shapes[item.name], item.dtype.kind
        low, high = self._ranges.get(item.name, (0, HIGH.get(kind, 0)))
        if kind == "f":
            drawn = rng.uniform(low, high, shape) if item.name in self._ranges else rng.standard_normal(shape)
            return np.asarray(drawn).astype(item.dtype)
        if kind == "b":
            return np.asarray(rng.integers(0, 2, shape)).astype(bool)
        if kind == "O":
            return _texts(rng, self._words, shape)
        return np.asarray(rng.integers(int(low), int(high), shape)).astype(item.dtype)


def _texts(rng: np.random.Generator, words: Sequence[str], shape: tuple[int, ...]) -> Array:
    """Return single known words, and phrases of known and other words."""
    found = np.empty(int(np.prod(shape)), object)
    pool = [*words, *WORDS]
    for index in range(len(found)):
        if words and rng.random() < 0.5:
            found[index] = words[int(rng.integers(len(words)))]
        else:
            picked = [pool[int(i)] for i in rng.integers(0, len(pool), int(rng.integers(2, 7)))]
            found[index] = " ".join([*picked, str(rng.integers(1_000_000))])
    return found.reshape(shape)


def shapes(inputs: Inputs, spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input in a sample, with ``options.dims`` for its free axes.

    ``dims`` names an input (one size for all its free axes, or a list with one for each) or the symbol of an axis.

    Raises:
        SpecError: With file and line: an unknown name, a wrong number of sizes, a size below 1.
    """
    dims: Mapping[str, Any] = spec.options.get("dims") or {}
    faults = list(_dims_faults(inputs, dims, spec))
    if faults:
        raise SpecError(*faults)
    return {item.name: tuple(_sizes(item, dims)) for item in inputs}


def _sizes(item: RandomInput, dims: Mapping[str, Any]) -> Iterator[int]:
    own = dims.get(item.name)
    listed = iter(own if isinstance(own, list) else [own] * len(item.free))
    for axis in item.axes:
        size = next(listed) if isinstance(axis, str) else axis
        yield dims.get(str(axis), FREE_AXIS) if size is None else size


def _dims_faults(inputs: Inputs, dims: Any, spec: ModelSpec) -> Iterator[Fault]:
    if not isinstance(dims, Mapping):
        yield _fault(spec, "dims is not a mapping", ("dims",), "", "write dims: {H: 64, W: 96} or dims: {x: [64, 96]}")
        return
    own = {item.name: item for item in inputs}
    symbols = sorted({symbol for item in inputs for symbol in item.free if symbol})
    for name, value in dims.items():
        sizes = value if isinstance(value, list) and name in own else [value]
        if name not in own and name not in symbols:
            why = f"inputs: {', '.join(own)}; free axes: {', '.join(symbols) or 'none with a name'}"
            fix = did_you_mean(name, [*own, *symbols])
            what = f"dims names '{name}', which is neither an input nor a free axis"
            yield _fault(spec, what, ("dims", name), why, fix)
        elif any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
            fix = "write whole numbers of at least 1"
            yield _fault(spec, f"dims of '{name}' is {value!r}", ("dims", name), "", fix)
        elif isinstance(value, list) and len(value) != len(own[name].free):
            free = ", ".join(axis or "unnamed" for axis in own[name].free) or "none"
            what = f"dims of '{name}' has {len(value)} sizes, the input {len(own[name].free)} free axes"
            why, fix = f"free axes: {free}; the batch is not one of them", "give one size for each"
            yield _fault(spec, what, ("dims", name), why, fix)


def ranges(inputs: Inputs, spec: ModelSpec) -> dict[str, tuple[float, float]]:
    """Return ``options.ranges``: input -> (lowest, first above the highest).

    Raises:
        SpecError: With file and line: an unknown input, one of text or booleans, not two ascending numbers, or beyond the type.
    """
    given: Mapping[str, Any] = spec.options.get("ranges") or {}
    if not isinstance(given, Mapping):
        raise SpecError(_fault(spec, "ranges is not a mapping", ("ranges",), "", "write ranges: {ids: [0, 30522]}"))
    types = {item.name: item.dtype for item in inputs}
    faults = [fault for name, value in given.items() for fault in _range_faults(name, value, types, spec)]
    if faults:
        raise SpecError(*faults)
    return {name: (value[0], value[1]) for name, value in given.items()}


def _range_faults(name: str, value: Any, types: Mapping[str, np.dtype[Any]], spec: ModelSpec) -> Iterator[Fault]:
    loc = ("ranges", name)
    if name not in types:
        yield _fault(spec, f"ranges names '{name}', which is not an input", loc, "", did_you_mean(name, types))
        return
    kind = types[name].kind
    allowed = (int,) if kind in "iu" else (int, float)
    pair: list[Any] = value if isinstance(value, list) and len(value) == 2 else [None]
    numbers = all(type(v) in allowed and math.isfinite(v) for v in pair)
    if kind not in "iuf":
        yield _fault(spec, f"input '{name}' has no range", loc, f"it is {types[name]}", "remove the line")
    elif not numbers or not value[0] < value[1]:
        fix = "write the lowest number and the first one above the highest, such as [0, 30522]"
        yield _fault(spec, f"the range of '{name}' is {value!r}", loc, f"the input is {types[name]}", fix)
    elif kind in "iu" and (value[0] < np.iinfo(types[name]).min or value[1] - 1 > np.iinfo(types[name]).max):
        limits = np.iinfo(types[name])
        why = f"{types[name]} ranges from {limits.min} to {limits.max}"
        yield _fault(spec, f"the range of '{name}' exceeds its type", loc, why, "narrow it")


def _fault(spec: ModelSpec, what: str, loc: tuple[str, ...], why: str, fix: str) -> Fault:
    return Fault(what, spec.where("options", *loc), why, fix, spec.build_command("--plan"))
