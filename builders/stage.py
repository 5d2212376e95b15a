"""When a stage may be skipped, and the record that proves it.

In      a `Stage` (what it reads, which tools, what it does) and a `Job` (one model's build).
Out     a `Decision` (keep, run or import, and why), and after a run the stage's folder with ``stage.json``.

A stage is current if, and only if, its spec part, the bytes of its inputs, its tool versions and the bytes of its outputs are
those of the record. It works in a scratch folder that is renamed into place, so a kill leaves the old output or the new one,
never a partial one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from builders.sources import user_files
from builders.sources.base import Source, load_source, source_file, source_files
from builders.targets import Target
from planwright.config.spec import RENAMED, ModelSpec, ServerSpec
from planwright.files import HashCache, read_json, same_files, write_json

RECORD = "stage.json"


@dataclass(frozen=True)
class Job:
    """One model's build.

    Attributes:
        model: Its part of config.yaml.
        root: Folder of config.yaml; paths in the file are relative to it.
        build, repository: Where intermediate files and published models go.
        target: What compiles and loads engines.
        server: The server that the repository is made for.
        cache: Remembered file hashes.
        random_weights: True where ``--random-weights`` names this model.
    """

    model: ModelSpec
    root: Path
    build: Path
    repository: Path
    target: Target
    server: ServerSpec
    cache: HashCache
    random_weights: bool = False

    @property
    def export_folder(self) -> Path:
        return self.build / self.model.name / "export"

    @property
    def log(self) -> Path:
        return self.build / self.model.name / "error.log"

    def load_source(self) -> Source:
        return load_source(self.model, self.root, random_weights=self.random_weights, log=self.log)

    def watched(self) -> AbstractContextManager[None]:
        """Record the files that the model's code opens in this block, for `files_read`."""
        return user_files.watched(source_file(self.model), self.model.name)

    def files_read(self) -> dict[str, Path]:
        """Return the user's files that the model's code has opened."""
        return user_files.opened_for(source_file(self.model), self.model.name, self.root, self.build, self.repository)

    def line(self, stage: str, text: str) -> str:
        return f"{self.model.name:<16} {stage:<8} ... {text}"

    @property
    def graph_folder(self) -> Path:
        return self.build / self.model.name / "graph" / self.model.precision

    @property
    def graph_file(self) -> Path:
        return self.graph_folder / f"model.{self.model.precision}.onnx"

    @property
    def compile_folder(self) -> Path:
        return self.build / self.model.name / "compile" / self.model.precision / self.target.key()

    @property
    def verify_folder(self) -> Path:
        return self.build / self.model.name / "verify" / self.model.precision / self.target.key()


@dataclass(frozen=True)
class Stage:
    """One step from files to files.

    Attributes:
        name: As on the command line.
        revision: Raised when the stage's own code changes what it writes.
        folder: Where its outputs are.
        spec_part: The settings it depends on, as a JSON value.
        inputs: Label → file that it reads; a file that is absent counts as unknown.
        tools: Package → version, None if it is not installed.
        run: Writes the outputs into the given folder and returns figures for the record.
        seen: Label → file that the user's code read in the run; known only afterwards.
        shared: True if models with the same spec part and inputs have the same output, which is then linked.
    """

    name: str
    revision: int
    folder: Callable[[Job], Path]
    spec_part: Callable[[Job], Mapping[str, Any]]
    inputs: Callable[[Job], Mapping[str, Path]]
    tools: Callable[[Job], Mapping[str, str | None]]
    run: Callable[[Job, Path], Mapping[str, Any]]
    shared: bool = False
    seen: Callable[[Job], Mapping[str, Path]] = lambda _: {}


@dataclass(frozen=True)
class Decision:
    action: Literal["keep", "run", "import"]
    why: str


def decide(stage: Stage, job: Job, *, forced: bool = False) -> Decision:
    """Decide whether the stage's present output is current."""
    folder = stage.folder(job)
    record = record_of(folder)
    if forced:
        return Decision("run", "forced")
    if "outputs" not in record:
        return Decision("run", "not built yet")
    tools = stage.tools(job)
    absent = [name for name, found in tools.items() if found is None]
    change = _changed(stage, job, record, lenient=bool(absent))
    if not change and not absent:
        change = _first_difference("", record["tools"], dict(tools))
    if not change:
        missing = same_files(record["outputs"], folder, job.cache)
        change = f"{missing[0]} is missing or was changed" if missing else ""
    if change:
        return Decision("run", change)
    if absent:
        return Decision("import", f"{', '.join(absent)} not installed here")
    return Decision("keep", "unchanged")


def execute(stage: Stage, job: Job) -> dict[str, Any]:
    """Run the stage in a scratch folder, rename it into place and return its record."""
    folder = stage.folder(job)
    scratch = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    started = time.perf_counter()
    source = _shared_output(stage, job) if stage.shared else None
    result = stage.run(job, scratch) if source is None else _link(source, scratch)
    if source is None:
        read = _hashes_of_read(job, stage.seen(job), stage.inputs(job).values())
    else:
        read = user_files.hashes(record_of(source)["read"], job.root, job.cache)
    record = {
        "stage": stage.name,
        "revision": stage.revision,
        "spec": dict(stage.spec_part(job)),
        "inputs": _hashes(stage, job),
        "read": read,
        "tools": dict(stage.tools(job)),
        "outputs": {file.name: job.cache.of(file) for file in sorted(scratch.iterdir())},
        "imported": False,
        "seconds": round(time.perf_counter() - started, 3),
        "result": dict(result),
    }
    write_json(scratch / RECORD, record)
    shutil.rmtree(folder, ignore_errors=True)
    scratch.replace(folder)
    return record


def _shared_output(stage: Stage, job: Job) -> Path | None:
    """Return another model's current output of this stage that was made from the same inputs; None if there is none."""
    mine = stage.folder(job)
    wanted = {"revision": stage.revision, "inputs": _hashes(stage, job)}
    wanted |= {"spec": dict(stage.spec_part(job)), "tools": dict(stage.tools(job))}
    for folder in sorted(job.build.glob(f"*/{mine.relative_to(job.build / job.model.name)}")):
        record = record_of(folder)
        same = folder != mine and all(record.get(key) == value for key, value in wanted.items())
        if same and not read_since(job, record) and not same_files(record["outputs"], folder, job.cache):
            return folder
    return None


def _link(source: Path, folder: Path) -> Mapping[str, Any]:
    """Link the files of `source` into `folder`, or copy them if the file system has no links; return its figures."""
    record = record_of(source)
    for name in record["outputs"]:
        try:
            (folder / name).hardlink_to(source / name)
        except OSError:
            shutil.copyfile(source / name, folder / name)
    return {**record["result"], "shared_with": source.parts[-2]}


def mark_imported(stage: Stage, job: Job) -> None:
    """Mark the output in its record as made on another machine."""
    path = stage.folder(job) / RECORD
    record = read_json(path)
    if not record["imported"]:
        write_json(path, {**record, "imported": True})


def record_of(folder: Path) -> dict[str, Any]:
    """Return a stage's record; empty if it never ran."""
    record = read_json(folder / RECORD)
    return record if isinstance(record, dict) else {}


def installed(*packages: str) -> dict[str, str | None]:
    """Return the version of each package, None if it is not installed."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _hashes(stage: Stage, job: Job) -> dict[str, str]:
    return {label: job.cache.of(path) for label, path in stage.inputs(job).items() if path.exists()}


def _changed(stage: Stage, job: Job, record: Mapping[str, Any], *, lenient: bool) -> str:
    """Return the first thing that differs; `lenient` ignores inputs, such as weights, that are not on this machine."""
    if record.get("revision") != stage.revision:
        return f"{stage.name} itself changed"
    spec = {RENAMED.get(key, key): value for key, value in record["spec"].items()}
    change = _first_difference("", spec, dict(stage.spec_part(job)))
    if change:
        return change
    now = _hashes(stage, job)
    before = {key: value for key, value in record["inputs"].items() if not lenient or key in now}
    return _first_difference("file ", before, now) or read_since(job, record, lenient=lenient)


def _hashes_of_read(job: Job, seen: Mapping[str, Path], inputs: Iterable[Path]) -> dict[str, str]:
    """Return the hashes of the files that a run read, except the stage's inputs."""
    known = {path.resolve() for path in inputs} if seen else set()
    labels = [label for label, path in seen.items() if path.resolve() not in known]
    return user_files.hashes(labels, job.root, job.cache)


def note_reads(job: Job) -> None:
    """Add to the export's record the files that the model's code has read since then."""
    record = record_of(job.export_folder)
    inputs = [*source_files(job.model, job.root).values(), *(job.root / label for label in record["inputs"])]
    now = _hashes_of_read(job, job.files_read(), inputs)
    write_json(job.export_folder / RECORD, {**record, "read": {**record.get("read", {}), **now}})


def read_since(job: Job, record: Mapping[str, Any], *, lenient: bool = False) -> str:
    """Return the first file under ``read`` in a record that changed; `lenient` ignores files that are not on this machine."""
    before: Mapping[str, str] = record.get("read", {})
    now = user_files.hashes(before, job.root, job.cache)
    return _first_difference("file ", {key: value for key, value in before.items() if not lenient or key in now}, now)


def _first_difference(prefix: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    for key in [*now, *before]:
        if before.get(key) != now.get(key):
            detail = "" if prefix else f": {_short(before.get(key))} → {_short(now.get(key))}"
            return f"{prefix}{key} changed{detail}"
    return ""


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
