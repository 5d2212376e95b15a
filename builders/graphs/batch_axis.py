"""Measure whether axis 0 is the batch; never assume it.

In      the model's ``batch``, a function that runs the model, samples.
Out     how the model batches, or a `StageError` that names tensor, axis and reason; samples with their batch axis added and removed.

A graph may declare any first axis as free: the number of boxes that a detector found, a product of batch and boxes, a constant. Two
samples are answered alone and in one batch; every answer must have one row per sample, of the same shape and with the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from builders.error_log import reason
from builders.graphs import facts
from planwright.compare import OutputCheck, Tolerance, compare
from planwright.config.spec import BatchSpec
from planwright.errors import Fault, StageError
from planwright.golden import Arrays, Group, first_sample
from planwright.tensors import TensorSpec

Kind = Literal["dynamic", "fixed", "none"]
PROBED = (1, 2, 3)  # enough to distinguish a batch from a constant, a multiple and a length that depends on the content
USUAL = 8  # samples of one run if any number will do
_NONE = "'batch: none' serves it without batching, one request at a time"
_ROW = "give the output one row per sample"
UNMIXED = f"remove what mixes the batch axis (a mean, a softmax or a norm over axis 0, a branch that depends on the batch); {_NONE}"
_CLOSE = 0.05  # relative error below which a difference may be acceptable to the model's users


@dataclass(frozen=True)
class Probe:
    """What is probed, and how errors describe it.

    Attributes:
        stage: Stage that an error names.
        run: Runs a batch, arrays ``(batch, ...)`` in and out; without a batch axis, whole tensors.
        where: Place of the model in config.yaml.
        tolerance: Output name -> what counts as the same answer.
        graph: The ONNX file, whose names of axes and nodes explain what was measured.
        check: The command that repeats the check.
    """

    stage: str
    run: Callable[[Arrays], Arrays]
    where: str
    tolerance: Callable[[str], Tolerance]
    graph: Path | None = None
    check: str = ""
    _read: dict[Path, Any] = field(default_factory=dict)

    def fault(self, what: str, why: str, fix: str) -> Fault:
        return Fault(what, self.where, why, fix, self.check)

    @property
    def model(self) -> Any:
        """The graph without its weights; None if there is no file."""
        if self.graph is not None and self.graph not in self._read:
            self._read[self.graph] = facts.read(self.graph)
        return self._read.get(self.graph) if self.graph else None


def kind(batch: BatchSpec, inputs: Iterable[TensorSpec]) -> Kind:
    """Return how tensors batch: 'dynamic', 'fixed' (pad and split) or 'none' (one request, one tensor set)."""
    if batch.fixed is not None:
        return "fixed"
    free = all(tensor.shape and tensor.shape[0] == -1 for tensor in inputs)
    return "dynamic" if batch.axis and free else "none"


def run_size(batch: BatchSpec, inputs: Iterable[TensorSpec], usual: int = USUAL) -> int:
    """Return a batch size for one run of a graph; 0 if it takes single samples, without a batch axis."""
    return {"dynamic": usual, "fixed": batch.fixed or 0, "none": 0}[kind(batch, inputs)]


def rows(samples: Sequence[Arrays], size: int) -> Arrays:
    """Return a batch of exactly `size`, repeating samples as needed; for size 0 the first sample without a batch axis."""
    if not size:
        return dict(samples[0])
    return {name: np.stack([samples[i % len(samples)][name] for i in range(size)]) for name in samples[0]}


def feed(inputs: Arrays, size: int) -> Arrays:
    """Return a batch as the model takes it: for size 0 its first sample, without the batch axis."""
    return inputs if size else first_sample(inputs)


def take(group: Group, start: int, size: int) -> Arrays:
    """Return what the model takes for the `size` samples from `start` on, repeating samples as needed; for size 0 one sample."""
    return feed(group.take([i % len(group) for i in range(start, start + (size or 1))]).inputs, size)


def restore(answers: Arrays, size: int) -> Arrays:
    """Return answers with a batch axis: one is added if there was none (size 0)."""
    return answers if size else {name: np.asarray(array)[None] for name, array in answers.items()}


def check(probe: Probe, samples: Sequence[Arrays], sizes: Sequence[int]) -> None:
    """Prove that each sample has its own row in every answer.

    Args:
        probe: What to probe.
        samples: Without batch axis, at least one.
        sizes: Batch sizes to try, the smallest first; ``[0]`` without a batch axis.

    Raises:
        StageError: The answers are random, or an output's first axis is not the batch, or rows depend on each other.
    """
    pair = _pair(samples)
    alone = [_alone(probe, sample, sizes) for sample in pair]
    _require_steady(probe, alone[0], probe.run(rows(pair[:1], sizes[0])))
    if sizes[0]:
        answers = {size: alone[0] if size == 1 else _together(probe, pair, size, sizes[0]) for size in sizes}
        faults = [fault for name in alone[0] for fault in _axis_faults(probe, name, alone, answers)]
        faults = faults or [fault for name in alone[0] for fault in _row_faults(probe, name, alone, answers)]
        if faults:
            raise StageError(probe.stage, *faults)


def _pair(samples: Sequence[Arrays]) -> list[Arrays]:
    """Return two different samples of one shape; the first one twice if there are no two."""
    first = samples[0]
    same = (s for s in samples[1:] if all(s[n].shape == first[n].shape for n in first))
    return [first, next((s for s in same if any(not np.array_equal(s[n], first[n]) for n in first)), first)]


def _require_steady(probe: Probe, first: Arrays, again: Arrays) -> None:
    faults = []
    for name, expected in first.items():
        found = compare(name, np.asarray(expected)[None], np.asarray(again[name])[None], probe.tolerance(name))
        if not found.passed:
            random = facts.random_nodes(probe.model) if probe.model is not None else []
            why = "; ".join([f"the same sample twice: {found.reason}", *(f"{node} is random" for node in random[:3])])
            fix = "remove the randomness from the model, or make its noise an input"
            faults.append(probe.fault(f"output '{name}' is random, so no answer can be checked", why, fix))
    if faults:
        raise StageError(probe.stage, *faults)


def _alone(probe: Probe, sample: Arrays, sizes: Sequence[int]) -> Arrays:
    """Run one sample at the smallest size; if that fails and a larger size works, the batch is fixed in the graph."""
    try:
        return probe.run(rows([sample], sizes[0]))
    except Exception as error:  # torch and onnxruntime share no error class
        works = next((size for size in sizes[1:] if _runs(probe, rows([sample], size))), None)
        if works is None:
            raise
        raise StageError(probe.stage, _one_size(probe, works, sizes[0], error)) from None


def _runs(probe: Probe, batch: Arrays) -> bool:
    try:
        probe.run(batch)
    except Exception:
        return False
    return True


def _together(probe: Probe, pair: Sequence[Arrays], size: int, smallest: int) -> Arrays:
    try:
        return probe.run(rows(pair, size))
    except Exception as error:
        if size == smallest:
            raise
        raise StageError(probe.stage, _one_size(probe, smallest, size, error)) from None


def _one_size(probe: Probe, works: int, fails: int, error: Exception) -> Fault:
    why = f"batch {works} works and batch {fails} fails: {reason(error.__cause__ or error)}"
    return probe.fault("the model takes one batch size only", why, _fixed(works))


def _fixed(size: int) -> str:
    return f"'batch: {{fixed: {size}}}' serves it at that size; {_NONE}; or export it with a free first axis"


def _axis_faults(probe: Probe, name: str, alone: Sequence[Arrays], answers: Mapping[int, Arrays]) -> list[Fault]:
    """Compare axis 0 of one output with the batch, and its other axes with those of the samples alone."""
    shapes = {size: np.shape(found[name]) for size, found in answers.items()}
    if any(not shape for shape in shapes.values()):
        why = "it is a scalar: one number for the whole batch"
        return [probe.fault(f"output '{name}' has no batch axis", why, f"{_ROW}; {_NONE}")]
    lengths = {size: shape[0] for size, shape in shapes.items()}
    if any(length != size for size, length in lengths.items()):
        reason, fix = _explained(probe, name, lengths, constant=_constant(name, alone))
        return [probe.fault(f"axis 0 of output '{name}' is not the batch", reason, fix)]
    expected = np.shape(alone[0][name])[1:]
    if np.shape(alone[1][name])[1:] != expected:
        return []  # lengths that depend on the content are padded in a batch; comparing the rows shows that
    for size, shape in shapes.items():
        for axis, (length, other) in enumerate(zip(expected, shape[1:], strict=False), 1):
            if length != other:
                why = f"for the same samples it is {length} alone and {other} in a batch of {size}{_unlike(probe)}"
                fix = f"make each answer depend on its own sample only; {_NONE}"
                return [probe.fault(f"axis {axis} of output '{name}' depends on the batch", why, fix)]
    return []


def require_one_row(probe: Probe, answer: Arrays) -> None:
    """Refuse an answer to one sample that does not have exactly one row (`check` compared two samples only); raises StageError."""
    lengths = {name: len(array) for name, array in answer.items() if len(array) != 1}
    faults = [
        probe.fault(
            f"axis 0 of output '{name}' is not the batch",
            f"its length depends on the content: {length} for one golden sample, 1 for another{_symbol(probe, name)}",
            f"{_ROW}, padded; {_NONE}",
        )
        for name, length in lengths.items()
    ]
    if faults:
        raise StageError(probe.stage, *faults)


def _explained(probe: Probe, name: str, lengths: Mapping[int, int], *, constant: bool) -> tuple[str, str]:
    """Return why the first axis is not the batch, from its lengths at each size, and the possible fixes."""
    named = _symbol(probe, name)
    ratios = {length / size for size, length in lengths.items()}
    if len(set(lengths.values())) == 1 and len(lengths) > 1:
        length = next(iter(lengths.values()))
        baked = facts.baked_reshapes(probe.model, name)[:1] if probe.model is not None else []
        why = f"its length is {length} regardless of batch size: a constant, or a shape fixed in the graph"
        fits = length in lengths and not constant
        return "; ".join([why, *baked]), _fixed(length) if fits else f"{_ROW}; {_NONE}"
    ratio = next(iter(ratios))
    if len(ratios) == 1 and ratio > 1 and ratio.is_integer():
        return f"it has {ratio:.0f} rows per sample{named}", f"{_ROW}, with the others along axis 1; {_NONE}"
    lengths_seen = ", ".join(f"{length} for {size}" for size, length in lengths.items())
    why = f"its length depends on the content: {lengths_seen} samples{named}{_unlike(probe)}"
    return why, f"{_ROW}, padded; {_NONE}"


def _symbol(probe: Probe, name: str) -> str:
    """Return a clause with the graph's own name of the axis, if it has one."""
    if probe.model is None:
        return ""
    symbol = facts.first_axes(probe.model, outputs=True).get(name)
    batch = sorted({str(axis) for axis in facts.first_axes(probe.model, outputs=False).values() if axis})
    if not isinstance(symbol, str) or not symbol:
        return ""
    other = f", and the batch '{batch[0]}'" if batch and symbol not in batch else ""
    return f"; the graph calls it '{symbol}'{other}"


def _unlike(probe: Probe) -> str:
    """Return a clause if the first axes of the inputs have different names."""
    named = facts.first_axes(probe.model, outputs=False) if probe.model is not None else {}
    symbols = {name: axis for name, axis in named.items() if isinstance(axis, str) and axis}
    if len(set(symbols.values())) < 2:
        return ""
    return "; the inputs have different first axes: " + ", ".join(f"{name} '{axis}'" for name, axis in symbols.items())


def _row_faults(probe: Probe, name: str, alone: Sequence[Arrays], answers: Mapping[int, Arrays]) -> list[Fault]:
    """Compare each row with the answer to its sample alone."""
    tolerance = probe.tolerance(name)
    for size, found in answers.items():
        for row in range(size):
            expected, given = np.asarray(alone[row % 2][name])[:1], np.asarray(found[name])[row : row + 1]
            check = compare(name, expected, given, tolerance)
            if check.passed:
                continue
            if _constant(name, alone):
                why = "it is the same for all samples: a constant of the graph"
                return [probe.fault(f"axis 0 of output '{name}' is not the batch", why, f"{_ROW}; {_NONE}")]
            return [_neighbours(probe, check, row, size)]
    return []


def _constant(name: str, alone: Sequence[Arrays]) -> bool:
    """Return True if an output is the same for both samples, with rows that differ from each other."""
    first, second = (np.asarray(answer[name]) for answer in alone)
    return np.array_equal(first, second) and not all(np.array_equal(row, first[0]) for row in first)


def _neighbours(probe: Probe, check: OutputCheck, row: int, size: int) -> Fault:
    why = f"row {row} of a batch of {size} differs from the same sample alone: {check.reason}{_unlike(probe)}"
    if probe.model is not None and any(n.op_type == "DynamicQuantizeLinear" for n in facts.nodes(probe.model.graph)):
        why += "; DynamicQuantizeLinear computes one scale for the whole batch"
    fix = UNMIXED
    if check.relative < _CLOSE:
        fix += f"; or allow the difference in accept.{check.output}"
    return probe.fault(f"output '{check.output}' depends on a sample's neighbours in the batch", why, fix)
