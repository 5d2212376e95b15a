"""onnx: any ONNX file, read as it is: names, types and dynamic axes come from the file.

In      ``file:`` and, if there is real data, ``samples:`` (npz with one array per input, samples along the first axis).
Out     the same graph, checked; ONNX Runtime's FP32 answers are the reference.

A file whose first axes are not dynamic takes one tensor set per request and is served so. Without samples the inputs are
seeded random numbers, which is recorded as a warning: they prove plumbing, not accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from builders.source import Sample, Samples, Source
from builders.targets.ort import OrtEngine
from planwright.errors import Fault, StageError
from planwright.golden import Arrays
from planwright.tensors import TensorSpec, shape_fits

FREE_AXIS = 8  # size of a dynamic axis that options.dims says nothing about
HIGH = {"i": 8, "u": 256}  # random integers stay small: they are ids or pixels more often than not


class Model(Source):
    """A foreign ONNX file."""

    options: ClassVar[Mapping[str, Any]] = {"dims": {}}
    _engine: OrtEngine | None = None

    @property
    def path(self) -> Path:
        """The user's file."""
        return self.root / str(self.spec.file)

    @property
    def engine(self) -> OrtEngine:
        """The file as ONNX Runtime sees it."""
        if self._engine is None:
            from builders.onnx_check import load_checked

            load_checked(self.path)
            self._engine = OrtEngine(self.path)
        return self._engine

    @property
    def batched(self) -> bool:
        """True where all first axes are free, or config.yaml calls them a fixed batch."""
        fixed = self.spec.batch.fixed
        firsts = [tensor.shape[0] if tensor.shape else None for tensor in self.engine.inputs]
        return self.spec.batch.axis and all(first in (-1, fixed) and first is not None for first in firsts)

    def files(self) -> list[Path]:
        """The ONNX file, its external data and the samples."""
        data = sorted(self.path.parent.glob(f"{self.path.name}.data"))
        named = [self.root / self.spec.samples.file] if self.spec.samples.file else []
        return [self.path, *data, *named]

    def write_onnx(self, path: Path) -> None:
        """Copy the graph with its weights in one file where they fit; a free first axis becomes the fixed batch."""
        from builders.onnx_check import load_checked, rewrite

        model = load_checked(self.path)
        if self.batched and self.spec.batch.fixed:
            _fix_first_axes(model.graph, self.spec.batch.fixed)
        rewrite(model, path)

    def reference(self, inputs: Arrays) -> Arrays:
        """Answer by ONNX Runtime; a fixed batch is filled up and cut again."""
        size = self.spec.batch.fixed
        if not size:
            return self.engine.run(inputs)
        count = len(next(iter(inputs.values())))
        filled = {name: np.resize(array, (size, *array.shape[1:])) for name, array in inputs.items()}
        return {name: array[:count] for name, array in self.engine.run(filled).items()}

    def samples(self) -> Samples:
        """Real samples from the user's file, else seeded random ones."""
        counts = self.spec.samples
        given = self._given() if counts.file else [self._random(i) for i in range(counts.golden + counts.calibration)]
        golden = given[: counts.golden]
        if len(golden) < 2:
            fault = Fault(
                "at least two samples are needed",
                self.spec.where("samples", "file"),
                f"the file holds {len(golden)}",
                "add samples along the first axis",
            )
            raise StageError("export", fault)
        return Samples(given[counts.golden :][: counts.calibration], golden)

    def warnings(self) -> list[str]:
        """Say that the inputs are random, where they are."""
        return (
            []
            if self.spec.samples.file
            else [
                "inputs are random: they prove that the model is served as it is, not that it is good; 'samples:' names real ones"
            ]
        )

    def _sample_shape(self, tensor: TensorSpec) -> tuple[int, ...]:
        shape = tensor.shape[1:] if self.batched else tensor.shape
        return tuple(self.settings["dims"].get(tensor.name, FREE_AXIS) if dim == -1 else dim for dim in shape)

    def _random(self, index: int) -> Sample:
        rng = np.random.default_rng([17, index])
        return {t.name: np.asarray(_draw(rng, t.numpy_dtype, self._sample_shape(t))) for t in self.engine.inputs}

    def _given(self) -> list[Sample]:
        path = self.root / str(self.spec.samples.file)
        place = self.spec.where("samples", "file")
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (OSError, ValueError) as error:
            raise StageError(
                "export", Fault("the samples cannot be read", place, str(error), "write them with numpy.savez")
            ) from None
        self._check_given(arrays, place)
        count = min(len(array) for array in arrays.values())
        return [{t.name: np.ascontiguousarray(arrays[t.name][i]) for t in self.engine.inputs} for i in range(count)]

    def _check_given(self, arrays: Mapping[str, NDArray[Any]], place: str) -> None:
        faults = []
        for tensor in self.engine.inputs:
            array = arrays.get(tensor.name)
            shape = tensor.shape[1:] if self.batched else tensor.shape
            if array is None:
                faults.append(
                    Fault(
                        f"the samples lack input '{tensor.name}'",
                        place,
                        f"the file holds {sorted(arrays)}",
                        "add the array",
                    )
                )
            elif array.dtype != tensor.numpy_dtype or not shape_fits(shape, array.shape[1:]):
                why = f"the file has {array.dtype}{list(array.shape)}, a sample is {tensor.numpy_dtype}{list(shape)}"
                faults.append(
                    Fault(
                        f"the samples of '{tensor.name}' do not fit",
                        place,
                        why,
                        "first axis samples, then the input's own axes",
                    )
                )
        if faults:
            raise StageError("export", *faults)


def _fix_first_axes(graph: Any, size: int) -> None:
    """Write the batch into the declarations; that axis 0 of every output is the batch was measured before."""
    weights = {tensor.name for tensor in graph.initializer}
    for item in (*(item for item in graph.input if item.name not in weights), *graph.output):
        if item.type.tensor_type.shape.dim:
            item.type.tensor_type.shape.dim[0].dim_value = size


def _draw(rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind == "O":
        return np.array([f"text {value}" for value in rng.integers(0, 99, shape).ravel()], object).reshape(shape)
    return rng.integers(0, HIGH[dtype.kind], shape).astype(dtype)
