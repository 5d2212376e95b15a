"""Calibration samples, which set the ranges of INT8 and FP8; made only for models whose precision needs them.

In      a source, its golden samples.
Out     ``calibration.npz`` and ``calibration.json`` (how many were requested, and warnings) in the export's folder.

Models that differ in precision alone share one export, so a model whose export has none makes them before its graph is quantized.
No golden sample is among them: samples are compared by the hash of their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builders.sources.base import Source
from builders.sources.samples import Sample, Samples, fingerprint, native, sample_fault
from builders.sources.user_code import place_of
from builders.stage import Job, note_reads
from planwright import console
from planwright.config.spec import CALIBRATED
from planwright.console import many
from planwright.errors import Fault, StageError
from planwright.files import read_json, write_json
from planwright.golden import Golden, first_sample, group_by_shape

ENOUGH = 500  # NVIDIA's advice for CNN and ViT post-training quantization (Model-Optimizer examples/onnx_ptq)
FILE, NOTES = "calibration.npz", "calibration.json"


def ensure(job: Job) -> Path:
    """Return the file of calibration samples, made now if the export has none or another number was requested; raises StageError."""
    folder = job.export_folder
    requested = (read_json(folder / NOTES) or {}).get("requested")
    if not (folder / FILE).exists() or requested != job.model.samples.calibration:
        with job.watched():
            source = job.load_source()
            golden = [native(first_sample(group.inputs)) for group in Golden.load(folder / "golden.npz").samples()]
            write(job, source, source.samples(), golden, folder)
        note_reads(job)
    return folder / FILE


def warnings(job: Job) -> list[str]:
    return list((read_json(job.export_folder / NOTES) or {}).get("warnings", []))


def write(job: Job, source: Source, samples: Samples, golden: Sequence[Sample], folder: Path) -> None:
    """Write the calibration samples, without duplicates and golden ones; raises StageError if none is left or one does not fit."""
    known = {fingerprint(sample) for sample in golden}
    found: dict[str, Sample] = {}
    constant = saturated = 0
    rows = console.progress(job.line("export", "calibration samples"), samples.calibration, len(samples.calibration))
    for index, sample in enumerate(rows):
        _require_fit(source, sample, golden[0], index)
        found.setdefault(fingerprint(usable := native(sample)), usable)
        numbers = [array for array in usable.values() if array.size and array.dtype.kind in "iuf"]
        constant += bool(numbers) and all(np.ptp(array) == 0 for array in numbers)
        saturated += any(_saturated(array) for array in usable.values())
    kept = [sample for key, sample in found.items() if key not in known]
    if not kept:
        if job.model.precision not in CALIBRATED:  # only the other target needs them
            return
        raise StageError("export", _none_left(job, samples))
    Golden(group_by_shape(kept, [{} for _ in kept]), {"batched": source.batched}).save(folder / FILE)
    texts = [*_counts(samples, kept, len(found), constant, saturated), *_range_warnings(kept, golden)]
    write_json(folder / NOTES, {"requested": job.model.samples.calibration, "warnings": texts})


def _require_fit(source: Source, sample: Any, first: Sample, index: int) -> None:
    wrong = sample_fault(sample, first, list(first))
    if wrong:
        where = place_of(type(source), "samples")
        raise StageError("export", Fault(f"calibration[{index}]: {wrong[0]}", where, *wrong[1:], source.blame.check))


def _none_left(job: Job, samples: Samples) -> Fault:
    given = len(samples.calibration)
    why = f"all {given} are golden samples too" if given else f"all {len(samples.golden)} samples are golden samples"
    fix = "provide more samples, or lower 'samples.golden': samples not used as golden samples are used for calibration"
    return Fault(f"{job.model.precision} has no calibration samples", job.model.where("samples"), why, fix)


def _counts(samples: Samples, kept: list[Sample], distinct: int, constant: int, saturated: int) -> Iterator[str]:
    shared, repeated = distinct - len(kept), len(samples.calibration) - distinct
    if shared:
        yield f"{many(shared, 'calibration sample')} left out: golden samples too, which must not be used for fitting"
    if repeated:
        yield f"{many(repeated, 'calibration sample')} repeated: each is used once"
    if len(kept) < ENOUGH:
        yield f"{len(kept)} distinct calibration samples, fewer than {ENOUGH}: INT8 ranges may be poor"
    if constant:
        yield f"{many(constant, 'calibration sample')} constant"
    if saturated:
        yield f"{many(saturated, 'calibration sample')} saturated (over half of their values at the type's limit)"


def _saturated(array: Any) -> bool:
    return bool(array.dtype == np.uint8 and array.size and np.mean(array == 255) > 0.5)


def _range_warnings(calibration: Sequence[Sample], golden: Sequence[Sample]) -> Iterator[str]:
    """Compare the value ranges of calibration and golden inputs."""
    for name, first in golden[0].items():
        if first.dtype.kind not in "fu" or not calibration:
            continue
        seen, judged = _range(calibration, name), _range(golden, name)
        span = max(seen[1] - seen[0], judged[1] - judged[0], 1e-12)
        if max(abs(seen[0] - judged[0]), abs(seen[1] - judged[1])) > 0.25 * span:
            yield f"'{name}' ranges over {seen} in calibration and {judged} in golden samples"


def _range(samples: Sequence[Sample], name: str) -> tuple[float, float]:
    """Return the smallest and largest number; NaN is ignored."""
    arrays = [array for array in (sample[name] for sample in samples) if array.size and not np.isnan(array).all()]
    if not arrays:
        return 0.0, 0.0
    return min(float(np.nanmin(array)) for array in arrays), max(float(np.nanmax(array)) for array in arrays)
