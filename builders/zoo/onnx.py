"""onnx: any ONNX file, read as it is: names, types and dynamic axes come from the file.

In      ``file:`` and, if there is real data, ``samples:`` (npz with one array per input, samples along the first axis).
Out     the same graph, checked; ONNX Runtime's FP32 answers are the reference.

A file whose first axes are not dynamic takes one tensor set per request and is served so. Without samples the inputs are
seeded random numbers, which is recorded as a warning: they prove plumbing, not accuracy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from builders.error_log import reason
from builders.graphs import facts
from builders.sources import onnx_given
from builders.sources.base import Samples, Source
from builders.sources.onnx_random import FREE_AXIS, Input, Made
from builders.sources.samples import Sample, fingerprint
from builders.targets.ort import OrtEngine
from planwright.errors import Fault, StageError
from planwright.golden import Arrays
from planwright.tensors import TensorSpec

TRIES = 4  # random samples made for each golden one: small inputs repeat


class Model(Source):
    """A foreign ONNX file."""

    options: ClassVar[Mapping[str, Any]] = {"dims": {}, "ranges": {}}
    _engine: OrtEngine | None = None

    @property
    def path(self) -> Path:
        """The user's file."""
        return self.root / str(self.spec.file)

    @property
    def engine(self) -> OrtEngine:
        """The file as ONNX Runtime sees it."""
        if self._engine is None:
            from builders.graphs.check import load_checked, make_portable, rewrite

            model = load_checked(self.path)
            if not make_portable(model):
                self._engine = OrtEngine(self.path)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    rewrite(model, Path(folder) / "model.onnx")
                    self._engine = OrtEngine(Path(folder) / "model.onnx")
            self._require_inputs(self._engine)
        return self._engine

    def _require_inputs(self, engine: OrtEngine) -> None:
        if not engine.inputs:
            what, why = f"{self.path.name} has no inputs", "there is nothing that a client could send"
            fix = "make what should vary an input of the graph, and write the file again"
            raise StageError("onnx", Fault(what, self.spec.where("file"), why, fix, self.blame.check))

    @property
    def batched(self) -> bool:
        """True where all first axes are free, or config.yaml calls them a fixed batch."""
        fixed = self.spec.batch.fixed
        firsts = [tensor.shape[0] if tensor.shape else None for tensor in self.engine.inputs]
        return self.spec.batch.axis and all(first in (-1, fixed) and first is not None for first in firsts)

    def files(self) -> list[Path]:
        """The ONNX file; the weights beside it and the samples are found by the export stage."""
        return [self.path]

    def write_onnx(self, path: Path) -> None:
        """Copy the graph with its weights in one file where they fit; a free first axis becomes the fixed batch."""
        from builders.graphs.check import load_checked, make_portable, rewrite

        model = load_checked(self.path)
        make_portable(model)
        if self.batched and self.spec.batch.fixed:
            _fix_first_axes(model.graph, self.spec.batch.fixed)
        rewrite(model, path)

    def reference(self, inputs: Arrays) -> Arrays:
        """Answer by ONNX Runtime; a fixed batch is filled up and cut again, except where an answer has other rows than it."""
        size = self.spec.batch.fixed
        if not size:
            return self._run(inputs)
        count = len(next(iter(inputs.values())))
        filled = {name: np.resize(array, (size, *array.shape[1:])) for name, array in inputs.items()}
        return {
            name: array[:count] if np.shape(array)[:1] == (size,) else array
            for name, array in self._run(filled).items()
        }

    def _run(self, inputs: Arrays) -> Arrays:
        try:
            return self.engine.run(inputs)
        except Exception as error:  # onnxruntime's classes share no base
            raise StageError("onnx", self._unanswered(inputs, error)) from error

    def _unanswered(self, inputs: Arrays, error: Exception) -> Fault:
        """Say why ONNX Runtime did not answer; on random inputs it is most often their sizes or values."""
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in inputs.items())
        what, why, check = f"ONNX Runtime does not answer {shapes}", reason(error), self.blame.check
        if self.spec.samples.file:
            place = self.spec.where("samples", "file")
            return Fault(what, place, why, "give samples that the model takes, or write the file again", check)
        free = [f"{item.name}'s {axis or 'free axis'}" for item in self._inputs for axis in item.free]
        why += (
            f"; the inputs are random, with {', '.join(free)} set to {FREE_AXIS} unless dims says otherwise"
            if free
            else "; the inputs are random"
        )
        ways = ["give real ones with 'samples: file.npz'"]
        if free:
            names = {axis or item.name: 64 for item in self._inputs for axis in item.free}
            ways.append(
                "set sizes with 'options: {dims: {"
                + ", ".join(f"{name}: {size}" for name, size in names.items())
                + "}}'"
            )
        ids = [item.name for item in self._inputs if item.dtype.kind in "iu"]
        if ids:
            ways.append(f"set values with 'options: {{ranges: {{{ids[0]}: [0, 100]}}}}'")
        place = self.spec.where("options") if self.spec.options else self.spec.where("file")
        return Fault(what, place, why, "; or ".join(ways), check)

    def samples(self) -> Samples:
        """Real samples from the user's file, else seeded random ones."""
        if self.spec.samples.file:
            return self._given[0]
        counts, words = self.spec.samples, facts.words(self._graph)

        def made(numbers: Sequence[int]) -> Made:
            return Made(self._inputs, self.spec, words, numbers)

        golden: dict[str, Sample] = {}
        for sample in made(range(counts.golden * TRIES)):
            golden.setdefault(fingerprint(sample), sample)
            if len(golden) == counts.golden:
                break
        after = counts.golden * TRIES
        return Samples(made(range(after, after + counts.calibration)), list(golden.values()))

    def warnings(self) -> list[str]:
        """Say that the inputs are random, or that some of the user's occur twice."""
        if self.spec.samples.file:
            return self._given[1]
        return [
            "inputs are random: they prove that the model is served as it is, not that it is good; 'samples:' names real ones"
        ]

    @cached_property
    def _given(self) -> tuple[Samples, list[str]]:
        first = 1 if self.batched else 0
        inputs = [TensorSpec(t.name, t.datatype, t.shape[first:]) for t in self.engine.inputs]
        return onnx_given.read(self.root / str(self.spec.samples.file), self.spec, inputs)

    @cached_property
    def _graph(self) -> Any:
        """The graph without its weights, once it is known to be whole."""
        return facts.read(self.path) if self.engine else None

    @property
    def _inputs(self) -> list[Input]:
        """The inputs as a sample has them."""
        named, first = facts.axes(self._graph), 1 if self.batched else 0
        return [Input(t.name, t.numpy_dtype, named[t.name][first:]) for t in self.engine.inputs]


def _fix_first_axes(graph: Any, size: int) -> None:
    """Write the batch into the declarations; that axis 0 of every output is the batch was measured before."""
    for item in (*facts.given(graph), *graph.output):
        if item.type.tensor_type.shape.dim:
            item.type.tensor_type.shape.dim[0].dim_value = size
