"""publish: engine + golden samples + generated config.pbtxt → model_repository/<model>/.

In      verified outputs of the earlier stages.
Out     a version folder (only when engine, golden samples, labels or tolerances changed) and config.pbtxt.

The identity of a version is the hash of those four. A policy change (batching, instances, SLO) rewrites config.pbtxt
alone. A version folder that a killed run left behind is adopted when it is whole and has the right identity.
"""

from __future__ import annotations

import errno
import json
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.graphs import batch_axis
from builders.repository import architectures, config_pbtxt, revisions, serve_check
from builders.repository import versions as repository_versions
from builders.repository.revisions import Revision
from builders.repository.trial import FLAG, TrialServer
from builders.repository.versions import Published
from builders.stage import Job, installed, record_of
from builders.stages.compile import read_tensors
from planwright import __version__
from planwright.config_pbtxt import parse, specific
from planwright.errors import Fault, MachineError
from planwright.files import digest, read_json, write_json
from planwright.golden import Golden
from planwright.integrity import BUILD, CONFIG, OWN_HASH, damage, record_hash

Proof = dict[str, Any]


@dataclass(frozen=True)
class PublishResult:
    """What publishing did: 'published' (new version), 'served' (adopted one), 'config' (policy only) or 'kept'.

    `version` is the newest one served, `removed` were pruned; `proof` is what the trial load found, None if nothing changed.
    """

    action: str
    version: int
    removed: tuple[int, ...] = ()
    proof: dict[str, Any] | None = None


@dataclass(frozen=True)
class Parts:
    """The files that make a version: name in the version folder → source, and text written here."""

    files: dict[str, Path]
    texts: dict[str, str]
    tolerances: dict[str, Any]
    hashes: dict[str, str]

    @property
    def identity(self) -> str:
        """Hash of everything a client could notice."""
        texts = {name: digest(text) for name, text in self.texts.items()}
        return digest({"files": self.hashes, "texts": texts, "tolerances": self.tolerances})


def plan(job: Job) -> str:
    """Return what `publish` would do, for ``--plan``; raises SpecError if `serve` does not fit the engine."""
    serve_check.check(job)
    published = Published(job.repository / job.model.name)
    parts = _parts(job, read=False)
    version = published.find(parts.identity)
    if version is None:
        return f"publish version {published.next_version()}"
    served = _served(job, published, version)
    config = revisions.read(published.folder)
    same = config is not None and config.sealed and config.body == _render(job, parts, served)
    return "keep" if same else "rewrite config.pbtxt"


def current(job: Job, *, tried: bool = True) -> bool:
    """Return True if the repository serves exactly this, by remembered hashes, and with `tried` if a server loaded it before."""
    published = Published(job.repository / job.model.name)
    served = published.served()
    if not served:
        return False
    parts = _parts(job, read=False)
    if published.build(served[-1]).get("identity") != parts.identity:
        return False
    if not published.whole(served[-1], job.cache.of) or damage(published.folder, served, job.cache.of):
        return False
    config = revisions.read(published.folder)
    rendered = _render(job, parts, _served(job, published, served[-1]))
    return config is not None and config.sealed and config.body == rendered and (config.tried or not tried)


def publish(job: Job, trial: TrialServer) -> PublishResult:
    """Put the built model into the repository, after a server has loaded it where anything changes.

    Raises:
        StageError: stage 'serve': the server found here does not load it, or an answer is wrong.
        MachineError: The repository cannot be written, or there is no server (exit 3); what was served stays served.
    """
    published = Published(job.repository / job.model.name)
    parts = _parts(job, read=True)
    try:
        version = published.find(parts.identity)
        action = "published" if version is None else "kept" if version in published.served() else "served"
        proof: Proof | None = None
        if version is None:
            version, proof = _new_version(job, published, parts, trial)
        body = _render(job, parts, _served(job, published, version))
        if proof is None:
            proof = _proof_of(job, published, body, trial)
        changed = _serve(published, body, proof)
        removed = repository_versions.prune(published, max(job.model.keep_versions, job.model.versions))
    except OSError as error:
        raise MachineError(_disk(job, error)) from None
    finally:
        repository_versions.sweep_staging(job.build)
    action = "config" if action == "kept" and changed else action
    return PublishResult(action, version, tuple(removed), proof)


def _proof_of(job: Job, published: Published, body: str, trial: TrialServer) -> Proof | None:
    """Try a changed config.pbtxt with versions that are published already; None where there is nothing to try."""
    now = revisions.read(published.folder)
    if now is not None and now.body == body and (now.tried or not trial.wanted):
        return None
    return trial.prove(job, body, {version: published.folder / str(version) for version in specific(parse(body))})


def _serve(published: Published, body: str, proof: Proof | None) -> bool:
    """Make `body` the served config.pbtxt; returns whether it differs from what was served."""
    before = revisions.read(published.folder)
    tried = before.tried if proof is None and before else (proof or {}).get("skipped") != FLAG
    after = before.after(body, tried=tried) if before else Revision(body, tried=tried)
    if before != after:
        revisions.write(published.folder, after)
    return before is None or before.body != body


def _disk(job: Job, error: OSError) -> Fault:
    remove = f"remove the folder {error.filename2 or error.filename}"
    fixes = {errno.ENOSPC: "free some disk space", errno.EISDIR: remove}
    why, fix = error.strerror or str(error), fixes.get(error.errno or 0, "make the repository writable")
    what = "cannot publish; the served version is unchanged"
    return Fault(what, str(job.repository), why, fix, "python -m builders doctor")


def _served(job: Job, published: Published, newest: int) -> list[int]:
    """Return the versions to serve: the last `versions` whole ones up to the newest."""
    older = [v for v in published.versions() if v < newest] if job.model.versions > 1 else []
    known = [*(v for v in older if published.whole(v, job.cache.of)), newest]
    return known[-job.model.versions :]


def _parts(job: Job, *, read: bool) -> Parts:
    engine = sorted(file for file in job.compile_folder.iterdir() if file.suffix not in (".json", ".log"))
    golden_file = {"golden.npz": job.export_folder / "golden.npz"}
    files = {file.name: file for file in engine} | architectures.others(job) | golden_file
    labels: dict[str, list[str]] = read_json(job.export_folder / "labels.json") or {}
    texts = {_label_file(labels, output): "\n".join(names) + "\n" for output, names in labels.items()}
    golden = Golden.load(files["golden.npz"]) if read else None
    outputs = list(golden.groups[0].outputs) if golden else [t.name for t in read_tensors(job.compile_folder)[1]]
    tolerances = {name: job.model.tolerance(name).as_dict() for name in sorted(outputs)}
    return Parts(files, texts, tolerances, {name: job.cache.of(path, read=read) for name, path in files.items()})


def _label_file(labels: dict[str, list[str]], output: str) -> str:
    return "labels.txt" if len(labels) == 1 else f"labels.{output}.txt"


def _render(job: Job, parts: Parts, versions: list[int]) -> str:
    inputs, outputs = read_tensors(job.compile_folder)
    labels: dict[str, list[str]] = read_json(job.export_folder / "labels.json") or {}
    named = {output: f"{versions[-1]}/{_label_file(labels, output)}" for output in labels}
    return config_pbtxt.printed(config_pbtxt.message(job, inputs, outputs, versions, named))


def _new_version(job: Job, published: Published, parts: Parts, trial: TrialServer) -> tuple[int, Proof]:
    """Assemble beside the repository, try it, then rename: the whole model folder at first, the version folder later."""
    version = published.next_version()
    first = not published.folder.exists()
    staging = repository_versions.staging(job.build, job.repository, job.model.name)
    try:
        folder = _staged(job, parts, version, staging)
        served = _served(job, published, version)
        body = _render(job, parts, served)
        proof = trial.prove(job, body, {v: folder if v == version else published.folder / str(v) for v in served})
        _write_record(folder, {**read_json(folder / BUILD), "trial_load": proof})
        if first:
            revisions.write(staging, Revision(body, tried=proof.get("skipped") != FLAG))
            staging.rename(published.folder)
        else:
            folder.rename(published.folder / str(version))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return version, proof


def _staged(job: Job, parts: Parts, version: int, staging: Path) -> Path:
    folder = staging / str(version)
    folder.mkdir()
    for name, source in parts.files.items():
        shutil.copyfile(source, folder / name)
    for name, content in (parts.texts | {CONFIG: _render(job, parts, [version])}).items():
        (folder / name).write_text(content)
    _write_record(folder, build_record(job, parts, version, folder))
    return folder


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write build.json with a hash of itself."""
    plain = json.loads(json.dumps({key: value for key, value in record.items() if key != OWN_HASH}))
    write_json(folder / BUILD, {**plain, OWN_HASH: record_hash(plain)})


def build_record(job: Job, parts: Parts, version: int, folder: Path) -> dict[str, Any]:
    """Return build.json: what was built from what, by what, and how accurate it is."""
    inputs, outputs = read_tensors(job.compile_folder)
    folders = {"export": job.export_folder, "graph": job.graph_folder, "compile": job.compile_folder}
    records = {name: record_of(path) for name, path in {**folders, "verify": job.verify_folder}.items()}
    results = {name: record.get("result", {}) for name, record in records.items()}
    kind = batch_axis.kind(job.model.batch, inputs)
    return {
        "model": job.model.name,
        "version": version,
        "planwright": __version__,
        "identity": parts.identity,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "target": job.target.name,
        "precision": job.model.precision,
        "source": job.model.source,
        "weights": results["export"].get("weights", "real"),
        "batch": {"kind": kind, "max": job.model.batch.largest if kind != "none" else 0},
        "inputs": [tensor.as_dict() for tensor in inputs],
        "outputs": [tensor.as_dict() for tensor in outputs],
        "tolerances": parts.tolerances,
        "slo": job.model.slo.model_dump(exclude_none=True),
        "checks": results["verify"],
        "realised": results["compile"].get("realised", {}),
        "warnings": [*results["export"].get("warnings", []), *results["graph"].get("warnings", [])],
        "hashes": {file.name: job.cache.of(file, read=True) for file in sorted(folder.iterdir())},
        "versions": {"python": platform.python_version()} | job.target.versions() | installed("tritonclient", "numpy"),
        "stages": {name: {k: v for k, v in record.items() if k != "result"} for name, record in records.items()},
    }
