"""The answers of the original model to the golden samples.

In      a source and its golden samples.
Out     `Golden`, no larger than a limit, because it is published with the model and every check reads it whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from builders.graphs import batch_axis
from builders.sources.base import Source
from builders.sources.samples import LEAST_GOLDEN, Sample, spread
from builders.stage import Job
from builders.stages import golden_checks
from planwright import console
from planwright.console import human_bytes
from planwright.errors import Fault, StageError
from planwright.golden import Arrays, Golden, first_sample, group_by_shape

LIMIT_BYTES = 128 << 20  # inputs and outputs together: 16 samples of a detector with 640 x 640 pixels


def answers(job: Job, source: Source, samples: Sequence[Sample]) -> tuple[list[Sample], Golden, list[str]]:
    """Run the original model on the golden samples.

    Returns:
        The samples that were used, the golden set, and a warning if it has fewer samples than were given.

    Raises:
        StageError: stage 'torch': an answer is NaN, so the weights or the preprocessing are wrong.
    """
    probe = golden_checks.probe_of(job, source, samples)
    first = _answer(source, samples[0], probe)
    kept = [samples[i] for i in spread(len(samples), _affordable(samples[0], first, len(samples)))]
    warnings = []
    if len(kept) < len(samples):
        size = human_bytes(_size(samples[0]) + _size(first))
        warnings.append(f"{len(kept)} of {len(samples)} golden samples used: one takes {size}, the limit for all is {human_bytes(LIMIT_BYTES)}")  # fmt: skip
    rows = console.progress(job.line("export", "reference answers"), kept, len(kept))
    outputs = [_answer(source, sample, probe) for sample in rows]
    _require_numbers(job, kept, outputs)
    weights = "random" if job.random_weights else "real"
    meta = {"weights": weights, "reference": source.spec.source, "batched": source.batched}
    return kept, Golden(group_by_shape(kept, outputs), meta), [*warnings, *_infinite(outputs)]


def _answer(source: Source, sample: Sample, probe: batch_axis.Probe) -> Arrays:
    answer = source.reference(batch_axis.rows([sample], 1 if source.batched else 0))
    if not source.batched:
        return {name: np.asarray(array) for name, array in answer.items()}
    batch_axis.require_one_row(probe, answer)
    return first_sample(answer)


def _affordable(sample: Sample, answer: Arrays, count: int) -> int:
    return min(count, max(LEAST_GOLDEN, LIMIT_BYTES // max(_size(sample) + _size(answer), 1)))


def _size(arrays: Arrays) -> int:
    return sum(np.asarray(array).nbytes for array in arrays.values())


def _require_numbers(job: Job, samples: Sequence[Sample], outputs: Sequence[Arrays]) -> None:
    """Refuse NaN, unless the sample holds NaN or infinity, which a model may pass on. -inf is an ordinary mask."""
    for name in outputs[0]:
        broken = sum(
            _has(np.isnan, answer[name]) and not _not_finite(sample)
            for sample, answer in zip(samples, outputs, strict=True)
        )
        if broken:
            why = f"{broken} of {len(outputs)} golden answers hold NaN, before any conversion; their samples hold no NaN or infinity"
            fix = "correct the weights or the preprocessing: the original model itself returns NaN"
            raise StageError("torch", Fault(f"output '{name}' is not a number", job.model.where("source"), why, fix))


def _infinite(outputs: Sequence[Arrays]) -> list[str]:
    """Return a warning per output that is +inf, which is seldom intended."""
    counts = {name: sum(_has(np.isposinf, answer[name]) for answer in outputs) for name in outputs[0]}
    return [
        f"output '{name}' is infinite in {count} of {len(outputs)} golden answers"
        for name, count in counts.items()
        if count
    ]


def _not_finite(sample: Sample) -> bool:
    return any(_has(lambda values: ~np.isfinite(values), array) for array in sample.values())


def _has(test: Callable[[Any], Any], array: Any) -> bool:
    return bool(array.dtype.kind == "f" and test(array).any())
