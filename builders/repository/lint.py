"""lint: check without a server that engine, config.pbtxt and config.yaml agree.

In      config.yaml and the model repository.
Out     one `Finding` per disagreement, with both places named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.repository import config_pbtxt, revisions
from builders.repository.trial import FLAG
from builders.repository.versions import Published
from builders.stage import Job
from builders.targets import get_target
from planwright import integrity
from planwright.config_pbtxt import served
from planwright.errors import PlanwrightError
from planwright.golden import Golden
from planwright.integrity import BUILD, CONFIG, damage
from planwright.tensors import TensorSpec


@dataclass(frozen=True)
class Finding:
    model: str
    what: str
    where: str
    why: str
    fix: str


def lint(jobs: Iterable[Job], repository: Path) -> Iterator[Finding]:
    """Check every published model, and that every enabled one is published."""
    by_name = {job.model.name: job for job in jobs}
    folders = {path.parent.name for path in repository.glob(f"*/{CONFIG}")} | set(integrity.models(repository))
    for name in sorted(folders | set(by_name)):
        yield from _Model(Published(repository / name), by_name.get(name)).findings()


def notes(repository: Path) -> Iterator[str]:
    """Return what is worth knowing of published models, and no disagreement."""
    for path in sorted(repository.glob(f"*/{CONFIG}")):
        config = revisions.read(path.parent)
        if config is not None and not config.tried:
            yield f"{path.parent.name} was published with {FLAG}; a build without it loads the model in a server"


class _Model:
    """One model: what is published, and its part of config.yaml, None where it is not there."""

    def __init__(self, published: Published, job: Job | None) -> None:
        self.published, self.job, self.folder = published, job, published.folder
        self.name, self.path = published.folder.name, published.folder / CONFIG
        self.rebuild = job.model.build_command() if job else f"python builders/build_all.py {self.name}"

    def findings(self) -> Iterator[Finding]:
        if not self.published.exists and not integrity.published(self.folder):
            if self.job is not None and self.job.model.enabled:
                yield self._found("it is enabled, but not published", self.folder, "config.yaml enables it")
            return
        config = self.published.config()
        damaged = damage(self.folder, served(self.folder))
        for each in damaged:
            fault = integrity.fault(self.name, each)
            yield self._found(str(each), fault.where, "it was edited, or the disk is failing", fault.fix)
        if config is None:
            if self.path not in {each.path for each in damaged}:
                yield self._found("config.pbtxt cannot be read", self.path, "Triton would refuse it too")
            return
        for version in self.published.served():
            folder = self.folder / str(version)
            if not any(folder in each.path.parents for each in damaged):  # what is damaged proves nothing more
                yield from self._version(version, config)
        if self.job is None:
            fix = "remove the folder, or add the model to config.yaml"
            yield self._found("config.yaml has no such model", self.folder, "Triton would still serve it", fix)
        elif not any(each.path.name == BUILD for each in damaged):
            yield from self._policy(self.job, config)

    def _found(self, what: str, where: Path | str, why: str, fix: str = "") -> Finding:
        return Finding(self.name, what, str(where), why, fix or self.rebuild)

    def _version(self, version: int, config: Any) -> Iterator[Finding]:
        """Compare one served version: its engine's own tensors, its golden samples."""
        folder, force = self.folder / str(version), f"{self.rebuild} --force"
        build = self.published.build(version)
        if not build:
            why = "so its origin is unknown"
            yield self._found(f"version {version} has no build.json", folder, why, force)
            return
        try:
            engine = get_target(build["target"]).load(folder)
        except PlanwrightError as error:
            yield self._found("the engine cannot be loaded", folder, error.faults[0].why or error.faults[0].what)
            return
        yield from self._tensors("input", config, config.input, engine.inputs)
        yield from self._tensors("output", config, config.output, engine.outputs)
        path = folder / "golden.npz"
        outputs = {output for group in Golden.load(path).groups for output in group.outputs}
        if outputs != {tensor.name for tensor in engine.outputs}:
            yield self._found(
                "the golden samples belong to a different model", path, f"they hold {sorted(outputs)}", force
            )

    def _tensors(self, kind: str, config: Any, declared: Any, actual: Iterable[TensorSpec]) -> Iterator[Finding]:
        from tritonclient.grpc import model_config_pb2

        known = {tensor.name: tensor for tensor in actual}
        for item in declared:
            tensor = known.pop(item.name, None)
            if tensor is None:
                why = "the engine has none of that name"
                yield self._found(f"config.pbtxt has {kind} '{item.name}'", self.path, why)
                continue
            own = item.reshape.shape if item.HasField("reshape") or not tensor.shape else item.dims
            dims = [-1, *own] if config.max_batch_size else list(own)
            declared_type = model_config_pb2.DataType.Name(item.data_type)
            if declared_type != tensor.config_type or not _fits(dims, list(tensor.shape)):
                why = f"config.pbtxt says {declared_type}{dims}, the engine {tensor}"
                yield self._found(f"{kind} '{item.name}' differs", self.path, why)
        for missing, tensor in known.items():
            yield self._found(f"config.pbtxt lacks {kind} '{missing}'", self.path, f"the engine has {tensor}")

    def _policy(self, job: Job, config: Any) -> Iterator[Finding]:
        """Compare config.pbtxt with what config.yaml would make of the served engine."""
        versions = self.published.served()
        build = self.published.build(versions[-1]) if versions else {}
        if not build:
            return
        inputs, outputs = ([TensorSpec.from_dict(item) for item in build[key]] for key in ("inputs", "outputs"))
        labels = {item.name: item.label_filename for item in config.output if item.label_filename}
        expected = config_pbtxt.message(job, inputs, outputs, versions, labels)
        for field in sorted({f.name for f, _ in config.ListFields()} | {f.name for f, _ in expected.ListFields()}):
            if getattr(config, field) != getattr(expected, field):
                place = job.model.where("serve", field) if field in job.model.serve else f"models.{self.name}"
                why = "the model was not built since config.yaml changed, or the file was edited"
                yield self._found(f"{field} differs from config.yaml", f"{self.path} and {place}", why)


def _fits(dims: list[int], shape: list[int]) -> bool:
    return len(dims) == len(shape) and all(a == b or -1 in (a, b) for a, b in zip(dims, shape, strict=True))
