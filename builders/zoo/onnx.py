"""onnx: any ONNX file; names, types and dynamic axes come from the file.

In      ``file:`` and, if there is real data, ``samples:`` (npz with one array per input, samples along the first axis).
Out     the same graph, checked; ONNX Runtime's FP32 answers are the reference.

A file whose first axes are not dynamic is served with one tensor set per request. Without samples the inputs are seeded random
numbers, which is recorded as a warning: they prove that serving works, not that the model is accurate.
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
from builders.sources.onnx_random import FREE_AXIS, RandomInput, RandomSamples
from builders.sources.samples import Sample, fingerprint
from builders.targets.ort import OrtEngine
from planwright.errors import Fault, StageError
from planwright.golden import Arrays
from planwright.tensors import TensorSpec

TRIES = 4  # random samples made per golden one, as small inputs repeat


class Model(Source):
    options: ClassVar[Mapping[str, Any]] = {"dims": {}, "ranges": {}}
    _engine: OrtEngine | None = None

    @property
    def path(self) -> Path:
        return self.root / str(self.spec.file)

    @property
    def engine(self) -> OrtEngine:
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
            what, why = f"{self.path.name} has no inputs", "clients would have nothing to send"
            fix = "make what varies an input of the graph, and re-export it"
            raise StageError("onnx", Fault(what, self.spec.where("file"), why, fix, self.blame.check))

    @property
    def batched(self) -> bool:
        """True if all first axes are free, or config.yaml declares them a fixed batch."""
        fixed = self.spec.batch.fixed
        firsts = [tensor.shape[0] if tensor.shape else None for tensor in self.engine.inputs]
        return self.spec.batch.axis and all(first in (-1, fixed) and first is not None for first in firsts)

    def files(self) -> list[Path]:
        """The ONNX file; the export stage finds the weights beside it and the samples."""
        return [self.path]

    def write_onnx(self, path: Path) -> None:
        """Copy the graph with its weights, in one file if they fit; a free first axis becomes the fixed batch."""
        from builders.graphs.check import load_checked, make_portable, rewrite

        model = load_checked(self.path)
        make_portable(model)
        if self.batched and self.spec.batch.fixed:
            _fix_first_axes(model.graph, self.spec.batch.fixed)
        rewrite(model, path)

    def reference(self, inputs: Arrays) -> Arrays:
        """Run ONNX Runtime; a fixed batch is padded, and answers with one row per sample are cut to the samples."""
        size = self.spec.batch.fixed
        if not size:
            return self._run(inputs)
        count = len(next(iter(inputs.values())))
        filled = {name: np.resize(array, (size, *array.shape[1:])) for name, array in inputs.items()}
        answers = self._run(filled).items()
        return {name: array[:count] if np.shape(array)[:1] == (size,) else array for name, array in answers}

    def _run(self, inputs: Arrays) -> Arrays:
        try:
            return self.engine.run(inputs)
        except Exception as error:  # onnxruntime's classes share no base
            raise StageError("onnx", self._run_failed(inputs, error)) from error

    def _run_failed(self, inputs: Arrays, error: Exception) -> Fault:
        """Explain why ONNX Runtime failed; with random inputs it is most often their sizes or values."""
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in inputs.items())
        what, why, check = f"ONNX Runtime fails on {shapes}", reason(error), self.blame.check
        if self.spec.samples.file:
            place = self.spec.where("samples", "file")
            return Fault(what, place, why, "provide samples that the model takes, or re-export it", check)
        free = [f"{item.name}'s {axis or 'free axis'}" for item in self._inputs for axis in item.free]
        why += "; the inputs are random"
        ways = ["provide real ones with 'samples: file.npz'"]
        if free:
            why += f", with {', '.join(free)} set to {FREE_AXIS} unless dims gives another size"
            sizes = dict.fromkeys(f"{axis or item.name}: 64" for item in self._inputs for axis in item.free)
            ways.append(f"set sizes with 'options: {{dims: {{{', '.join(sizes)}}}}}'")
        ids = [item.name for item in self._inputs if item.dtype.kind in "iu"]
        if ids:
            ways.append(f"set values with 'options: {{ranges: {{{ids[0]}: [0, 100]}}}}'")
        place = self.spec.where("options") if self.spec.options else self.spec.where("file")
        return Fault(what, place, why, "; or ".join(ways), check)

    def samples(self) -> Samples:
        """Samples from the user's file, else seeded random ones."""
        if self.spec.samples.file:
            return self._given[0]
        counts, words = self.spec.samples, facts.words(self._graph)

        def made(numbers: Sequence[int]) -> RandomSamples:
            return RandomSamples(self._inputs, self.spec, words, numbers)

        golden: dict[str, Sample] = {}
        for sample in made(range(counts.golden * TRIES)):
            golden.setdefault(fingerprint(sample), sample)
            if len(golden) == counts.golden:
                break
        after = counts.golden * TRIES
        return Samples(made(range(after, after + counts.calibration)), list(golden.values()))

    def warnings(self) -> list[str]:
        """Say that the inputs are random, or that some of the user's are repeated."""
        if self.spec.samples.file:
            return self._given[1]
        return [
            "inputs are random: they prove that the model is served unchanged, not that it is good; set 'samples:' to use real ones"
        ]

    @cached_property
    def _given(self) -> tuple[Samples, list[str]]:
        first = 1 if self.batched else 0
        inputs = [TensorSpec(t.name, t.datatype, t.shape[first:]) for t in self.engine.inputs]
        return onnx_given.read(self.root / str(self.spec.samples.file), self.spec, inputs)

    @cached_property
    def _graph(self) -> Any:
        """The graph without its weights, once the file has been checked."""
        return facts.read(self.path) if self.engine else None

    @property
    def _inputs(self) -> list[RandomInput]:
        named, first = facts.axes(self._graph), 1 if self.batched else 0
        return [RandomInput(t.name, t.numpy_dtype, named[t.name][first:]) for t in self.engine.inputs]


def _fix_first_axes(graph: Any, size: int) -> None:
    """Declare the batch; that axis 0 of every output is the batch was measured before."""
    for item in (*facts.given(graph), *graph.output):
        if item.type.tensor_type.shape.dim:
            item.type.tensor_type.shape.dim[0].dim_value = size
