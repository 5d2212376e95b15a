"""export: weights → FP32 ONNX and golden samples.

In      a zoo source.
Out     ``model.onnx``, ``golden.npz``, ``calibration.npz``, ``test.npz`` and, where there are classes, ``labels.json``.

The FP32 answers of the original model are taken here, once; everything later is judged by them. Golden and calibration
samples are compared by the hash of their bytes, so a sample never judges ranges that it set.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builders import batch_axis, declared, golden_checks
from builders.source import Sample, Samples, Source, load_source, source_file
from builders.stage import Job, Stage, installed
from builders.targets.ort import sentence
from planwright.errors import Fault, PlanwrightError, StageError
from planwright.golden import Arrays, Golden, group_by_shape

ENOUGH_CALIBRATION = (
    500  # NVIDIA's advice for CNN and ViT post-training quantization (Model-Optimizer examples/onnx_ptq)
)


def source_of(job: Job) -> Source:
    """Return the model's zoo source."""
    return load_source(job.model, job.root, random_weights=job.random_weights, log=job.log)


def _run(job: Job, folder: Path) -> Mapping[str, Any]:
    from builders.onnx_check import check_opset, load_checked, rewrite

    source = source_of(job)
    samples = source.samples()
    warnings = _sample_warnings(samples)
    golden_checks.check_batch_axis(job, source, samples)
    golden = _answer(job, source, samples)
    path, exported = folder / "model.onnx", folder / "exported"  # exporters may write weights beside the graph
    exported.mkdir()
    source.write_onnx(exported / path.name)
    model = load_checked(exported / path.name)
    shutil.rmtree(exported)
    asked = 0 if job.model.source == "zoo/onnx" else job.model.export.opset
    opset = check_opset(model, asked, job.model.where("export", "opset"), job.target.max_opset)
    declared.check(source, model, golden)
    rewrite(model, path)
    golden.save(folder / "golden.npz")
    _save_samples(folder, source, samples)
    with _answering(job, source, path):
        golden_checks.check_file(job, source, path, samples, golden)
    warnings += [*source.warnings(), *golden_checks.equal_answers(golden)]
    return {"opset": opset, "weights": _weights(job), "golden": len(golden), "warnings": warnings}


@contextlib.contextmanager
def _answering(job: Job, source: Source, path: Path) -> Iterator[None]:
    """Turn an error of ONNX Runtime into a StageError: the graph has a shape baked in that real samples do not have."""
    try:
        yield
    except PlanwrightError:
        raise
    except Exception as error:  # onnxruntime's classes share no base
        source.blame.record(error)
        fix = "take sizes from x.shape inside the model, and name axes that vary in dynamic_axes; or use the other exporter"
        fault = Fault(
            "the ONNX file does not answer the golden samples", str(path), sentence(error), fix, source.blame.check
        )
        raise StageError("onnx", fault) from error


def _weights(job: Job) -> str:
    return "random" if job.random_weights else "real"


def _answer(job: Job, source: Source, samples: Samples) -> Golden:
    """Take the reference answers.

    Raises:
        StageError: stage 'torch': an answer is NaN or infinite, so the weights or the inputs are broken.
    """
    batched = source.batched
    outputs: list[Arrays] = []
    for sample in samples.golden:
        answer = source.reference(batch_axis.rows([sample], 1 if batched else 0))
        outputs.append({name: array[0] if batched else np.asarray(array) for name, array in answer.items()})
    for name in outputs[0]:
        values = [np.asarray(answer[name]) for answer in outputs]
        broken = sum(value.dtype.kind == "f" and not np.isfinite(value).all() for value in values)
        if broken:
            why = f"{broken} of {len(values)} golden answers hold NaN or infinity, before any conversion"
            fix = "mend the weights or the preprocessing: the original model itself answers so"
            raise StageError("torch", Fault(f"output '{name}' is not a number", job.model.where("source"), why, fix))
    meta = {"weights": _weights(job), "reference": source.spec.source, "batched": batched}
    return Golden(group_by_shape(samples.golden, outputs), meta)


def _sample_warnings(samples: Samples) -> list[str]:
    """Return what is doubtful about the samples.

    Raises:
        StageError: A calibration sample is also a golden one.
    """
    golden, calibration = ({_fingerprint(sample) for sample in part} for part in (samples.golden, samples.calibration))
    shared = len(golden & calibration)
    if shared:
        fault = Fault(f"{shared} golden samples are also calibration samples", why="INT8 would be judged by what it was fitted to",
                      fix="split the samples in the zoo file so that they do not overlap")  # fmt: skip
        raise StageError("export", fault)
    return [*_calibration_doubts(samples, len(calibration)), *_range_doubts(samples)]


def _calibration_doubts(samples: Samples, distinct: int) -> list[str]:
    doubts = []
    if distinct < ENOUGH_CALIBRATION:
        doubts.append(
            f"{distinct} distinct calibration samples, fewer than {ENOUGH_CALIBRATION}: INT8 ranges may be poor"
        )
    if distinct < len(samples.calibration):
        doubts.append(f"{len(samples.calibration) - distinct} calibration samples are duplicates")
    constant = sum(
        all(np.ptp(array) == 0 for array in s.values() if array.size and array.dtype.kind in "iuf")
        for s in samples.calibration
    )
    if constant:
        doubts.append(f"{constant} calibration samples are constant")
    saturated = sum(any(_saturated(array) for array in sample.values()) for sample in samples.calibration)
    if saturated:
        doubts.append(f"{saturated} calibration samples are saturated (over half of their values at the type's limit)")
    return doubts


def _saturated(array: Any) -> bool:
    return bool(array.dtype == np.uint8 and array.size and np.mean(array == 255) > 0.5)


def _range_doubts(samples: Samples) -> list[str]:
    """Compare the value ranges of calibration and golden inputs."""
    doubts = []
    for name, first in samples.golden[0].items():
        if first.dtype.kind not in "fu" or not samples.calibration:
            continue
        seen, judged = _range(samples.calibration, name), _range(samples.golden, name)
        span = max(seen[1] - seen[0], judged[1] - judged[0], 1e-12)
        if max(abs(seen[0] - judged[0]), abs(seen[1] - judged[1])) > 0.25 * span:
            doubts.append(f"'{name}' ranges over {seen} in calibration and {judged} in golden samples")
    return doubts


def _range(samples: Sequence[Sample], name: str) -> tuple[float, float]:
    return min(float(s[name].min()) for s in samples), max(float(s[name].max()) for s in samples)


def _fingerprint(sample: Sample) -> str:
    digest = hashlib.sha256()
    for name in sorted(sample):
        array = np.ascontiguousarray(sample[name])
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes())
    return digest.hexdigest()


def _save_samples(folder: Path, source: Source, samples: Samples) -> None:
    if samples.calibration:
        empty: list[Arrays] = [{} for _ in samples.calibration]
        meta = {"batched": source.batched}
        Golden(group_by_shape(samples.calibration, empty), meta).save(folder / "calibration.npz")
    if samples.test:
        truth = [{"truth": np.asarray(value)} for value in samples.truth]
        Golden(group_by_shape(samples.test, truth), {"batched": source.batched}).save(folder / "test.npz")
    if source.labels():
        (folder / "labels.json").write_text(json.dumps({k: list(v) for k, v in source.labels().items()}))


def _inputs(job: Job) -> dict[str, Path]:
    source = source_of(job)
    return {"source": source_file(job.model), **{path.name: path for path in source.files()}}


def _spec_part(job: Job) -> dict[str, Any]:
    model = job.model
    return {
        "source": model.source,
        "options": model.options,
        "fixed_batch": model.batch.fixed,
        "export": model.export.model_dump(),
        "samples": model.samples.model_dump(),
        "io_int64": model.io_int64,
        "random_weights": job.random_weights,
    }


EXPORT = Stage(
    name="export",
    revision=1,
    folder=lambda job: job.export_folder,
    spec_part=_spec_part,
    inputs=_inputs,
    tools=lambda job: installed(*source_of(job).tools),
    run=_run,
    shared=True,
)
