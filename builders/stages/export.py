"""export: weights → FP32 ONNX and golden samples.

In      the model's source.
Out     ``model.onnx``, ``golden.npz``, ``calibration.npz``, ``test.npz`` and, if there are classes, ``labels.json``.

The FP32 answers of the original model are recorded here, once; every later stage is judged by them. Calibration samples are made
only if the model's precision, on this target or the other, takes its ranges from them (`builders.precision.calibration`).
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from builders.error_log import reason
from builders.graphs.external_data import locations
from builders.precision import calibration
from builders.sources import user_files
from builders.sources.base import Samples, Source, source_files
from builders.stage import Job, Stage, installed
from builders.stages import golden_checks
from planwright.errors import Fault, PlanwrightError, StageError
from planwright.files import digest, write_json
from planwright.golden import Golden, group_by_shape


def _run(job: Job, folder: Path) -> Mapping[str, Any]:
    with job.watched():
        return _export(job, folder)


def _export(job: Job, folder: Path) -> Mapping[str, Any]:
    from builders.graphs.check import check_opset, load_checked, rewrite

    source = job.load_source()
    samples, warnings = golden_checks.distinct(job, source.samples())
    golden_checks.check_batch_axis(job, source, samples)
    kept, golden, fewer = golden_checks.reference_answers(job, source, samples.golden)
    samples = replace(samples, golden=kept)
    path, exported = folder / "model.onnx", folder / "exported"  # exporters may write weights beside the graph
    exported.mkdir()
    source.write_onnx(exported / path.name)
    model = load_checked(exported / path.name)
    shutil.rmtree(exported)
    requested = 0 if job.model.source == "zoo/onnx" else job.model.export.opset
    opset = check_opset(model, requested, job.model.where("export", "opset"), job.target.max_opset)
    golden_checks.check_declared(source, model, golden)
    rewrite(model, path)
    golden.save(folder / "golden.npz")
    _save_samples(folder, source, samples)
    if job.model.calibrates:
        calibration.write(job, source, samples, samples.golden, folder)
    with _explaining_errors(job, source, path):
        golden_checks.check_file(job, source, path, samples, golden)
    warnings += [*fewer, *source.warnings(), *golden_checks.equal_answers(golden)]
    return {"opset": opset, "weights": golden.meta["weights"], "golden": len(golden), "warnings": warnings}


@contextlib.contextmanager
def _explaining_errors(job: Job, source: Source, path: Path) -> Iterator[None]:
    """Turn an error of ONNX Runtime into a StageError: the graph fixes a shape that real samples do not have."""
    try:
        yield
    except PlanwrightError:
        raise
    except Exception as error:  # onnxruntime's classes share no base
        source.blame.record(error)
        fix = "take sizes from x.shape inside the model, and name axes that vary in dynamic_axes; or use the other exporter"
        what, where = "the ONNX file fails on the golden samples", golden_checks.origin(job)
        fault = Fault(what, where, reason(error), fix, source.blame.check)
        raise StageError("onnx", fault) from error


def _save_samples(folder: Path, source: Source, samples: Samples) -> None:
    # input -> the shape of every sample that costs nothing to make, from which TensorRT's profiles are derived
    rows = [*samples.golden, *samples.test]
    rows += samples.calibration if isinstance(samples.calibration, list | tuple) else ()
    write_json(folder / "shapes.json", {name: [list(np.shape(row[name])) for row in rows] for name in rows[0]})
    if samples.test:
        truth = [{"truth": np.asarray(value)} for value in samples.truth]
        Golden(group_by_shape(samples.test, truth), {"batched": source.batched}).save(folder / "test.npz")
    if source.labels():
        (folder / "labels.json").write_text(json.dumps({k: list(v) for k, v in source.labels().items()}))


def _inputs(job: Job) -> dict[str, Path]:
    """Return every file that an export reads, by a label that ``--plan`` can print."""
    model, code = job.model, source_files(job.model, job.root)
    named = [model.file, model.samples.file, *_texts(model.options)]
    own = job.load_source().files() if _declared(job, code)[0] else []
    files = [file for path in own for file in _files(path)]
    files += [job.root / name for name in named if name and _is_file(job.root / name)]
    graph_file = job.root / model.file if model.file else None
    for graph in [file for file in files if file.suffix == ".onnx" or file == graph_file]:
        key = f"external data of {job.cache.of(graph)}"
        files += [graph.parent / place for place in job.cache.remember(key, partial(locations, graph))]
    return code | {user_files.label(file, job.root): file for file in files}


def _texts(value: Any) -> Iterator[str]:
    """Yield every string in `options`, as each may be a file's path."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a string that cannot be a path
        return False


def _tools(job: Job) -> dict[str, str | None]:
    return installed(*_declared(job, source_files(job.model, job.root))[1:])


def _declared(job: Job, code: Mapping[str, Path]) -> list[str]:
    """Return "files" if the source defines `files()`, else "", and then its tools: both follow from its code alone.

    Cached by the code's hashes, because importing a zoo file may import PyTorch, and most builds have nothing to do.
    """

    def read() -> list[str]:
        source = job.load_source()
        return ["files" if type(source).files is not Source.files else "", *source.tools]

    hashes = {label: job.cache.of(path) for label, path in code.items() if path.exists()}
    return job.cache.remember(f"what {digest(hashes)} needs", read)


def _spec_part(job: Job) -> dict[str, Any]:
    model = job.model
    return {
        "source": model.source,
        "options": model.options,
        "fixed_batch": model.batch.fixed,
        **({} if model.batch.axis else {"batch_axis": False}),
        "export": model.export.model_dump(),
        "samples": model.samples.model_dump(exclude={"calibration"}),
        "io_int64": model.io_int64,
        "random_weights": job.random_weights,
    }


EXPORT = Stage(
    "export", 3, lambda job: job.export_folder, _spec_part, _inputs, _tools, _run, shared=True, seen=Job.files_read
)
