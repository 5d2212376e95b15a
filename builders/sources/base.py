"""The contract of a model's source, in builders/zoo/ or in a user's own Python file.

In      the model's part of config.yaml.
Out     `Source`, the class that such a file extends, and `load_source`, which finds and loads it.

A zoo file defines one class named ``Model``. PyTorch models extend `builders.sources.pytorch.TorchSource`. Heavy libraries
are imported inside methods, because verify calls `score` on machines without torch.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from numpy.typing import NDArray

from builders.sources import contract, torchvision_shim, user_files
from builders.sources.samples import Later, Sample, Samples
from builders.sources.user_code import Blame
from planwright.config.spec import ModelSpec
from planwright.errors import Fault, SpecError, did_you_mean
from planwright.files import ROOT, digest
from planwright.golden import Arrays

__all__ = ["Later", "Sample", "Samples", "Source", "load_source", "source_class", "source_file", "source_files"]


_ZOO = Path(__file__).parents[1] / "zoo"


class Source(ABC):
    """One model: its weights, its samples, and what counts as a correct answer.

    Class attributes:
        tools: Packages whose versions decide whether an export is still current.
        options: Names and default values of the settings under ``options`` in config.yaml.
        metric: Name of the figure that `score` returns, or an empty string.
        random_weights_allowed: True if ``--random-weights MODEL`` applies.
        input_names, output_names, dynamic_axes: Of a PyTorch model, see `builders.sources.pytorch`; an ONNX file names its own.
    """

    tools: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    options: ClassVar[Mapping[str, Any]] = {}
    metric: ClassVar[str] = ""
    random_weights_allowed: ClassVar[bool] = False
    input_names: ClassVar[tuple[str, ...]] = ()
    output_names: ClassVar[tuple[str, ...]] = ()
    dynamic_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {}

    log: Path | None = None  # receives the output of exporters and stack traces

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
            what, why = f"--random-weights does not apply to {self.spec.name}", "its weights are always available"
            raise SpecError(Fault(what, why=why, fix="omit it"))

    @property
    def blame(self) -> Blame:
        """What errors of this model's own code refer to."""
        return _blame(self.spec, self.root, self.log)

    @property
    def batched(self) -> bool:
        """True if axis 0 of every tensor is a batch axis; False for a model that takes one tensor set per request."""
        return self.spec.batch.axis

    @abstractmethod
    def samples(self) -> Samples:
        """Return real samples, up to the numbers in ``spec.samples``."""

    @abstractmethod
    def write_onnx(self, path: Path) -> None:
        """Write the FP32 model as ONNX to `path`."""

    @abstractmethod
    def reference(self, inputs: Arrays) -> Arrays:
        """Run a batch through the original model in FP32: arrays ``(batch, ...)`` in and out."""

    def files(self) -> list[Path]:
        """Return the files (weights, samples) whose bytes decide whether an export is still current."""
        return []

    def warnings(self) -> list[str]:
        """Return warnings about these samples and weights, which are printed and recorded."""
        return []

    def labels(self) -> Mapping[str, Sequence[str]]:
        """Return class names per output."""
        return {}

    def score(self, answers: Arrays, truth: NDArray[Any]) -> float:
        """Return the task metric of `answers` (arrays ``(samples, ...)``); larger is better."""
        raise NotImplementedError


def load_source(spec: ModelSpec, root: Path, *, random_weights: bool = False, log: Path | None = None) -> Source:
    """Import ``builders/zoo/<name>.py`` and make its ``Model`` for this entry of config.yaml.

    Args:
        spec: The entry.
        root: Folder of config.yaml.
        random_weights: True if ``--random-weights`` names this model.
        log: File for stack traces and the output of exporters; None discards them.

    Raises:
        StageError: The file cannot be imported or breaks its contract; its functions then raise the same error.
    """
    blame = _blame(spec, root, log)
    kind = _class_of(blame)
    with blame.during("Model()"):
        source: Source = kind(spec, root, random_weights=random_weights)
    source.log = log
    guarded: Source = contract.guarded(source, blame)
    return guarded


def source_class(source: str) -> type[Source]:
    """Return the class for ``zoo/<name>`` or for the path of a Python file."""
    return _class_of(Blame(source, _file(source), _file(source).parent))


def source_file(spec: ModelSpec) -> Path:
    """Return the Python file of the model's source."""
    return _file(spec.code)


def source_files(spec: ModelSpec, root: Path) -> dict[str, Path]:
    """Return the zoo file as ``source``, and the user's modules that it imports by their path from the folder on Python's path."""
    blame = _blame(spec, root, None)
    roots = [ROOT] if blame.file.parent == _ZOO else [ROOT, blame.file.parent]
    found = user_files.imported(blame.file, roots, blame.is_users)
    return {"source": blame.file} | {
        next(str(path.relative_to(root)) for root in roots if root in path.parents): path for path in found
    }


def _blame(spec: ModelSpec, root: Path, log: Path | None) -> Blame:
    return Blame(spec.source, source_file(spec), root, spec.build_command("--until", "export"), log)


def _file(source: str) -> Path:
    return Path(source) if source.endswith(".py") else _ZOO / f"{source.removeprefix('zoo/')}.py"


def _class_of(blame: Blame) -> type[Source]:
    torchvision_shim.install()
    with blame.during("its import"), user_files.watched(blame.file):
        module = _imported(blame.file)
    return contract.model_class(module, Source, blame)


def _imported(file: Path) -> ModuleType:
    """Import a zoo file, or a user's own by its path, whose folder is appended to Python's path."""
    if file.parent == _ZOO:
        return importlib.import_module(f"builders.zoo.{file.stem}")
    name = f"planwright_model_{digest(str(file))[:12]}"
    if name not in sys.modules:
        if str(file.parent) not in sys.path:
            sys.path.append(str(file.parent))
        found = spec_from_file_location(name, file)
        assert found is not None
        assert found.loader is not None
        sys.modules[name] = module_from_spec(found)
        try:
            found.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
