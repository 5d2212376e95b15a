"""lint: do engine, config.pbtxt and config.yaml agree, without a server.

In      config.yaml and model_repository/.
Out     one `Finding` per disagreement, with both places named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
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

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def lint(jobs: Iterable[Job], repository: Path) -> Iterator[Finding]:
    """Check every published model, and that every enabled one is published."""
    by_name = {job.model.name: job for job in jobs}
    folders = {path.parent.name for path in repository.glob(f"*/{CONFIG}")} | set(integrity.models(repository))
    for name in sorted(folders | set(by_name)):
        published = Published(repository / name)
        job = by_name.get(name)
        rebuild = job.model.build_command() if job else f"python builders/build_all.py {name}"
        if not published.exists and not integrity.published(published.folder):
            if job is not None and job.model.enabled:
                yield Finding(
                    name, "it is enabled, but not published", str(repository / name), "config.yaml asks for it", rebuild
                )
            continue
        yield from _model(name, published, job, rebuild)


def notes(repository: Path) -> Iterator[str]:
    """Return what is worth knowing of published models, and no disagreement."""
    for path in sorted(repository.glob(f"*/{CONFIG}")):
        config = revisions.read(path.parent)
        if config is not None and not config.tried:
            yield f"{path.parent.name} was published with {FLAG}; a build without it loads the model in a server"


def _model(name: str, published: Published, job: Job | None, rebuild: str) -> Iterator[Finding]:
    path = published.folder / CONFIG
    config = published.config()
    found = damage(published.folder, served(published.folder))
    for each in found:
        fault = integrity.fault(name, each)
        yield Finding(name, str(each), fault.where, "it was edited, or the disk is failing", fault.fix)
    if config is None:
        if path not in {each.path for each in found}:
            yield Finding(name, "config.pbtxt cannot be read", str(path), "Triton would refuse it too", rebuild)
        return
    for version in published.served():
        folder = published.folder / str(version)
        if not any(folder in each.path.parents for each in found):  # what is damaged proves nothing more
            yield from _version(name, published, version, config, rebuild)
    if job is None:
        yield Finding(
            name,
            "config.yaml does not know it",
            str(published.folder),
            "it is served all the same",
            "remove the folder, or add the model to config.yaml",
        )
        return
    if not any(each.path.name == BUILD for each in found):
        yield from _policy(name, published, job, config, rebuild)


def _version(name: str, published: Published, version: int, config: Any, rebuild: str) -> Iterator[Finding]:
    """Compare one served version: its engine's own tensors, its golden samples."""
    folder = published.folder / str(version)
    build = published.build(version)
    if not build:
        yield Finding(
            name,
            f"version {version} has no build.json",
            str(folder),
            "nothing says what it was built from",
            f"{rebuild} --force",
        )
        return
    try:
        engine = get_target(build["target"]).load(folder)
    except PlanwrightError as error:
        yield Finding(
            name, "the engine cannot be loaded", str(folder), error.faults[0].why or error.faults[0].what, rebuild
        )
        return
    yield from _tensors(name, published.folder / CONFIG, config, engine.inputs, engine.outputs, rebuild)
    outputs = {output for group in Golden.load(folder / "golden.npz").groups for output in group.outputs}
    if outputs != {tensor.name for tensor in engine.outputs}:
        yield Finding(
            name,
            "the golden samples are of another model",
            str(folder / "golden.npz"),
            f"they hold {sorted(outputs)}",
            f"{rebuild} --force",
        )


def _tensors(
    name: str, path: Path, config: Any, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec], rebuild: str
) -> Iterator[Finding]:
    from tritonclient.grpc import model_config_pb2

    for kind, declared, actual in (("input", config.input, inputs), ("output", config.output, outputs)):
        known = {tensor.name: tensor for tensor in actual}
        for item in declared:
            tensor = known.pop(item.name, None)
            if tensor is None:
                yield Finding(
                    name,
                    f"config.pbtxt has {kind} '{item.name}'",
                    str(path),
                    "the engine has none of that name",
                    rebuild,
                )
                continue
            own = item.reshape.shape if item.HasField("reshape") or not tensor.shape else item.dims
            dims = [-1, *own] if config.max_batch_size else list(own)
            declared_type = model_config_pb2.DataType.Name(item.data_type)
            if declared_type != tensor.config_type or not _fits(dims, list(tensor.shape)):
                yield Finding(
                    name,
                    f"{kind} '{item.name}' differs",
                    str(path),
                    f"config.pbtxt says {declared_type}{dims}, the engine {tensor}",
                    rebuild,
                )
        for missing in known:
            yield Finding(
                name, f"config.pbtxt lacks {kind} '{missing}'", str(path), f"the engine has {known[missing]}", rebuild
            )


def _fits(dims: list[int], shape: list[int]) -> bool:
    return len(dims) == len(shape) and all(a == b or -1 in (a, b) for a, b in zip(dims, shape, strict=True))


def _policy(name: str, published: Published, job: Job, config: Any, rebuild: str) -> Iterator[Finding]:
    """Compare config.pbtxt with what config.yaml would make of the served engine."""
    versions = published.served()
    if not versions or not published.build(versions[-1]):
        return
    build = published.build(versions[-1])
    inputs, outputs = ([TensorSpec.from_dict(item) for item in build[key]] for key in ("inputs", "outputs"))
    labels = {item.name: item.label_filename for item in config.output if item.label_filename}
    expected = config_pbtxt.message(job, inputs, outputs, versions, labels)
    for field in sorted({f.name for f, _ in config.ListFields()} | {f.name for f, _ in expected.ListFields()}):
        if getattr(config, field) != getattr(expected, field):
            where = job.model.where("serve", field) if field in job.model.serve else f"models.{name}"
            yield Finding(
                name,
                f"{field} differs from config.yaml",
                f"{published.folder / CONFIG} and {where}",
                "the model was not built since config.yaml changed, or the file was edited",
                rebuild,
            )
