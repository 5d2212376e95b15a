"""Which samples are used, and what is doubtful about them.

In      the samples of a source.
Out     golden samples without twins; calibration samples, where the precision needs them, that are not golden ones; warnings.

Samples are compared by the hash of their bytes, so a sample never judges ranges that it set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from builders.samples import LEAST_GOLDEN, Sample, Samples, fingerprint, native, sample_fault
from builders.source import Source
from builders.stage import Job
from builders.user_code import place_of
from planwright import console
from planwright.console import many
from planwright.errors import Fault, StageError

ENOUGH_CALIBRATION = (
    500  # NVIDIA's advice for CNN and ViT post-training quantization (Model-Optimizer examples/onnx_ptq)
)


def distinct(job: Job, samples: Samples) -> tuple[Samples, list[str]]:
    """Return the samples with every golden one once, and a warning where there were twins.

    Raises:
        StageError: stage 'export': fewer than two different golden samples are left.
    """
    golden = list({fingerprint(sample): sample for sample in reversed(samples.golden)}.values())[::-1]
    twins = len(samples.golden) - len(golden)
    if len(golden) < LEAST_GOLDEN:
        why, fix = f"all {len(samples.golden)} are the same", f"give at least {LEAST_GOLDEN} different samples"
        raise StageError("export", Fault("the golden samples are all alike", _place(job), why, fix))
    warnings = [f"{many(twins, 'golden sample')} repeated: each is used once"] if twins else []
    return replace(samples, golden=golden), warnings


def calibration(job: Job, source: Source, samples: Samples) -> tuple[list[Sample], list[str]]:
    """Return the calibration samples, each once and none a golden one, and warnings; none where no precision needs them.

    Raises:
        StageError: stage 'export': the precision needs some and there are none, or one does not fit the others.
    """
    if not job.model.calibrates:
        return [], []
    golden = {fingerprint(sample) for sample in samples.golden}
    found: dict[str, Sample] = {}
    constant = saturated = 0
    rows = console.progress(job.line("export", "calibration samples"), samples.calibration, len(samples.calibration))
    for index, sample in enumerate(rows):
        _require_fit(source, sample, samples.golden[0], index)
        found.setdefault(fingerprint(usable := native(sample)), usable)
        numbers = [array for array in usable.values() if array.size and array.dtype.kind in "iuf"]
        constant += bool(numbers) and all(np.ptp(array) == 0 for array in numbers)
        saturated += any(_saturated(array) for array in usable.values())
    kept = [sample for key, sample in found.items() if key not in golden]
    if not kept and job.model.precision in ("int8", "fp8"):
        raise StageError("export", _none_left(job, samples))
    return kept, list(_warnings(samples, kept, len(found), constant, saturated))


def _require_fit(source: Source, sample: Any, first: Sample, index: int) -> None:
    wrong = sample_fault(sample, first, list(first))
    if wrong:
        where = place_of(type(source), "samples")
        raise StageError("export", Fault(f"calibration[{index}]: {wrong[0]}", where, *wrong[1:], source.blame.check))


def _none_left(job: Job, samples: Samples) -> Fault:
    given = len(samples.calibration)
    why = (
        f"all {given} of them are golden samples too" if given else f"all {len(samples.golden)} samples are golden ones"
    )
    fix = "give more samples, or lower 'samples.golden': what is not golden calibrates"
    return Fault(f"{job.model.precision} has no calibration samples", _place(job), why, fix)


def _place(job: Job) -> str:
    return job.model.where("samples")


def _warnings(samples: Samples, kept: list[Sample], distinct: int, constant: int, saturated: int) -> Iterator[str]:
    shared, repeated = distinct - len(kept), len(samples.calibration) - distinct
    if shared:
        yield f"{many(shared, 'calibration sample')} left out: golden samples too, and INT8 must not be judged by what it was fitted to"
    if repeated:
        yield f"{many(repeated, 'calibration sample')} repeated: each is used once"
    if len(kept) < ENOUGH_CALIBRATION:
        yield f"{len(kept)} distinct calibration samples, fewer than {ENOUGH_CALIBRATION}: INT8 ranges may be poor"
    if constant:
        yield f"{many(constant, 'calibration sample')} constant"
    if saturated:
        yield f"{many(saturated, 'calibration sample')} saturated (over half of their values at the type's limit)"
    yield from _range_warnings(kept, samples.golden)


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
    """Return the smallest and largest number; NaN, which a user's samples may hold, is neither."""
    arrays = [array for array in (sample[name] for sample in samples) if array.size and not np.isnan(array).all()]
    if not arrays:
        return 0.0, 0.0
    return min(float(np.nanmin(array)) for array in arrays), max(float(np.nanmax(array)) for array in arrays)
