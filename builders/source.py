"""What a model in builders/zoo/ must say about itself.

In      the model's part of config.yaml.
Out     `Source`, the contract of a zoo file, and `load_source`, which finds the file.

A zoo file defines one class named ``Model``. PyTorch models extend `builders.torch_source.TorchSource`. Heavy libraries
are imported inside methods, because verify asks `score` on machines that have no torch.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from planwright.errors import Fault, SpecError, did_you_mean
from planwright.golden import Array, Arrays
from planwright.spec import ModelSpec

Sample = Arrays  # input name -> array without a batch axis


@dataclass(frozen=True)
class Samples:
    """Real inputs for each use; a sample is a dict of arrays without a batch axis.

    Attributes:
        calibration: Inputs that set INT8 ranges; never among `golden`.
        golden: Inputs whose FP32 answers every later check uses.
        test: Held-out inputs for the task metric; empty where there is none.
        truth: What is right for each test sample, first axis as long as `test`.
    """

    calibration: Sequence[Sample]
    golden: Sequence[Sample]
    test: Sequence[Sample] = ()
    truth: Array = field(default_factory=lambda: np.zeros(0))


class Source(ABC):
    """One model: where its weights come from, what goes in, and what a right answer is.

    Class attributes:
        tools: Installed packages whose versions decide whether an export is still current.
        options: Names and default values of what config.yaml may set under ``options``.
        metric: Name of the figure that `score` returns, or an empty string.
        random_weights_allowed: True where ``--random-weights MODEL`` makes sense.
    """

    tools: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    options: ClassVar[Mapping[str, Any]] = {}
    metric: ClassVar[str] = ""
    random_weights_allowed: ClassVar[bool] = False

    def __init__(self, spec: ModelSpec, root: Path, *, random_weights: bool = False) -> None:
        self.spec, self.root, self.random_weights = spec, root, random_weights
        self.settings: dict[str, Any] = {**self.options, **spec.options}
        self._check_options()

    def _check_options(self) -> None:
        unknown = [key for key in self.spec.options if key not in self.options]
        if unknown:
            raise SpecError(
                *(Fault(f"{self.spec.source} has no option '{key}'", self.spec.where("options", key),
                        fix=did_you_mean(key, self.options)) for key in unknown)
            )  # fmt: skip
        if self.random_weights and not self.random_weights_allowed:
            why = "its weights are always at hand"
            raise SpecError(Fault(f"--random-weights makes no sense for {self.spec.name}", why=why, fix="leave it out"))

    @property
    def batched(self) -> bool:
        """True where axis 0 of every tensor is a batch axis; False for a graph that takes one tensor set."""
        return True

    @abstractmethod
    def samples(self) -> Samples:
        """Return real samples, as many as ``spec.samples`` asks for where there are so many."""

    @abstractmethod
    def write_onnx(self, path: Path) -> None:
        """Write the FP32 model as ONNX to `path`."""

    @abstractmethod
    def reference(self, inputs: Arrays) -> Arrays:
        """Answer a batch in FP32 with the original model: arrays ``(batch, ...)`` in and out."""

    def files(self) -> list[Path]:
        """Return the files (weights, samples) whose bytes decide whether an export is still current."""
        return []

    def labels(self) -> Mapping[str, Sequence[str]]:
        """Return class names per output."""
        return {}

    def score(self, answers: Arrays, truth: NDArray[Any]) -> float:
        """Return the task metric of `answers` (arrays ``(samples, ...)``); larger is better."""
        raise NotImplementedError


def load_source(spec: ModelSpec, root: Path, *, random_weights: bool = False) -> Source:
    """Import ``builders/zoo/<name>.py`` and make its ``Model`` for this entry of config.yaml."""
    return source_class(spec.source)(spec, root, random_weights=random_weights)


def source_class(source: str) -> type[Source]:
    """Return the class that ``zoo/<name>`` names."""
    found: type[Source] = importlib.import_module(f"builders.zoo.{source.removeprefix('zoo/')}").Model
    return found


def source_file(spec: ModelSpec) -> Path:
    """Return the zoo file, which is one of the inputs of an export."""
    return Path(__file__).parent / "zoo" / f"{spec.source.removeprefix('zoo/')}.py"
