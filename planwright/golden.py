"""Golden samples: the inputs and FP32 answers that every later check compares with.

In      arrays from the export stage, or a ``golden.npz`` that it wrote.
Out     `Golden`: samples grouped by shape, batches cut from them.

A sample never has a batch axis; `Group` stacks samples of one shape along a new first axis, so sentences of 16 and
of 32 tokens make two groups. Text is stored as bytes and lengths (`tensors.pack_text`), because object arrays would need pickle
and numpy's fixed-width text loses a NUL at its end; files of earlier versions hold fixed-width bytes and are still read.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from planwright.tensors import Array as Array
from planwright.tensors import Arrays as Arrays
from planwright.tensors import first_sample as first_sample
from planwright.tensors import is_text, pack_text, unpack_text


@dataclass(frozen=True)
class Group:
    """Samples of one shape, stacked: every array is ``(samples, *sample_shape)``."""

    inputs: Arrays
    outputs: Arrays

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, indices: Sequence[int]) -> Group:
        """Return the samples at `indices`, in that order; indices may repeat."""
        rows = list(indices)
        inputs, outputs = ({name: array[rows] for name, array in side.items()} for side in (self.inputs, self.outputs))
        return Group(inputs, outputs)


@dataclass(frozen=True)
class Golden:
    """All golden samples of one model.

    Attributes:
        groups: Samples by shape.
        meta: Notes of the export stage: ``weights`` (``real`` or ``random``), ``batched``, ``reference``, ``seed``, ...
    """

    groups: tuple[Group, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(group) for group in self.groups)

    def batches(self, size: int) -> Iterator[Group]:
        """Yield batches of exactly `size` that together hold every sample; a short tail is filled from the start."""
        for group in self.groups:
            for start in range(0, len(group), size):
                yield group.take([i % len(group) for i in range(start, start + size)])

    def runs(self, size: int) -> int:
        """Return the number of batches of `size` that hold every sample; the number of samples where there is no batch axis."""
        return sum(-(-len(group) // (size if self.batched and size else 1)) for group in self.groups)

    @property
    def batched(self) -> bool:
        """False where a sample is a whole tensor set, to which no batch axis is added."""
        return bool(self.meta.get("batched", True))

    def feeds(self, size: int) -> Iterator[Arrays]:
        """Yield a model's inputs: batches of `size`, or every sample as it is where there is no batch axis."""
        for group in self.batches(size if self.batched else 1):
            yield group.inputs if self.batched else first_sample(group.inputs)

    def samples(self) -> Iterator[Group]:
        """Yield the samples one by one, each as a group of one."""
        return self.batches(1)

    def pairs(self) -> Iterator[tuple[Group, int, int]]:
        """Yield each pair of samples once as (group, i, j); samples of different shapes are distinct anyway."""
        for group in self.groups:
            for i, j in itertools.combinations(range(len(group)), 2):
                yield group, i, j

    def save(self, path: Path) -> None:
        """Write one npz without pickle, compressed where that makes it smaller."""
        arrays: Arrays = {"meta": np.frombuffer(json.dumps(dict(self.meta), sort_keys=True).encode(), np.uint8)}
        for index, group in enumerate(self.groups):
            for kind, tensors in (("input", group.inputs), ("output", group.outputs)):
                for name, array in tensors.items():
                    arrays |= _stored(kind, f"{index}/{name}", array)
        with path.open("wb") as stream:
            (np.savez_compressed if _shrinks(arrays) else np.savez)(stream, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Golden:
        """Read what `save` wrote.

        Raises:
            OSError, ValueError, KeyError: The file is missing, truncated, or not a golden file.
        """
        groups: dict[int, tuple[Arrays, Arrays]] = {}
        # opened here: numpy leaves its own file open when the archive is truncated
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            meta = json.loads(stored["meta"].tobytes())
            for key in stored.files:
                if key == "meta":
                    continue
                kind, index, name = key.split("/", 2)
                if kind.endswith(_LENGTHS):
                    continue
                inputs, outputs = groups.setdefault(int(index), ({}, {}))
                (inputs if kind.startswith("input") else outputs)[name] = _loaded(stored, key)
        return cls(tuple(Group(*groups[i]) for i in sorted(groups)), meta)


def group_by_shape(inputs: Sequence[Arrays], outputs: Sequence[Arrays]) -> tuple[Group, ...]:
    """Stack single samples (arrays without a batch axis) into one group per set of shapes, order kept."""
    found: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for index, sample in enumerate(inputs):
        shapes = tuple(array.shape for array in (*sample.values(), *outputs[index].values()))
        found.setdefault(shapes, []).append(index)
    return tuple(
        Group(_stack([inputs[i] for i in members]), _stack([outputs[i] for i in members])) for members in found.values()
    )


def _stack(samples: Sequence[Arrays]) -> Arrays:
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def _shrinks(arrays: Arrays) -> bool:
    """Return whether the largest array is worth compressing; noise takes seconds and does not shrink."""
    largest = max(arrays.values(), key=lambda array: array.nbytes)
    head = np.ascontiguousarray(largest).view(np.uint8).ravel()[:_PROBE_BYTES].tobytes() if largest.ndim else b""
    return len(zlib.compress(head, 1)) < 0.9 * len(head) or largest.nbytes < _PROBE_BYTES


_PROBE_BYTES = 1 << 18
_BYTES, _LENGTHS = ".bytes", ".lengths"  # after the kind, in the names of the two arrays that hold text


def _stored(kind: str, place: str, array: Array) -> Arrays:
    if not is_text(array):
        return {f"{kind}/{place}": array}
    content, lengths = pack_text(array)
    return {f"{kind}{_BYTES}/{place}": content, f"{kind}{_LENGTHS}/{place}": lengths}


def _loaded(stored: Any, key: str) -> Array:
    kind, _, place = key.partition("/")
    if kind.endswith(_BYTES):
        return unpack_text(stored[key], stored[f"{kind.removesuffix(_BYTES)}{_LENGTHS}/{place}"])
    array: Array = stored[key]
    return array.astype(object) if is_text(array) else array
