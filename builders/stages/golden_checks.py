"""Golden samples: the original model's answers to them, and the checks before any precision is chosen.

In      a model's source, its samples, the ONNX file that was written.
Out     `Golden`, no larger than a limit, because it is published with the model and every check reads it in full; or a `StageError`:
        an answer is NaN, axis 0 is not the batch, the file differs from the model, a shape is fixed, samples are too alike.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from builders import answers
from builders.graphs import batch_axis
from builders.sources.base import Sample, Samples, Source
from builders.sources.samples import LEAST_GOLDEN, fingerprint, spread
from builders.sources.user_code import place_of
from builders.stage import Job
from builders.zoo.onnx import Model as OnnxFile
from planwright import console
from planwright.compare import DEFAULTS, Tolerance, indistinct
from planwright.config.spec import AcceptSpec
from planwright.console import human_bytes, many
from planwright.errors import Fault, StageError
from planwright.golden import Arrays, Golden, first_sample, group_by_shape

MEMORY_SHARE = 0.25  # expected answers, given answers and the runtime's copies are in memory at once
LIMIT_BYTES = 128 << 20  # inputs and outputs together: 16 samples of a detector with 640 x 640 pixels
EQUAL_SHARE = 0.05  # of the golden pairs; fewer need no warning


def distinct(job: Job, samples: Samples) -> tuple[Samples, list[str]]:
    """Return the samples with each golden one once, and a warning if some repeat: equal answers hide a swap. Raises StageError if only one is left."""
    golden = list({fingerprint(sample): sample for sample in reversed(samples.golden)}.values())[::-1]
    repeated = len(samples.golden) - len(golden)
    if len(golden) < LEAST_GOLDEN:
        why, fix = f"all {len(samples.golden)} are the same", f"provide at least {LEAST_GOLDEN} different samples"
        raise StageError("export", Fault("the golden samples are all equal", job.model.where("samples"), why, fix))
    warnings = [f"{many(repeated, 'golden sample')} repeated: each is used once"] if repeated else []
    return replace(samples, golden=golden), warnings


def check_batch_axis(job: Job, source: Source, samples: Samples) -> None:
    """Prove that axis 0 is the batch, on the original model."""
    batch_axis.check(probe_of(job, source, samples.golden), samples.golden, _probed(job, source))


def probe_of(job: Job, source: Source, golden: Sequence[Sample]) -> batch_axis.Probe:
    stage, graph = ("onnx", source.path) if isinstance(source, OnnxFile) else ("torch", None)
    where, command = origin(job), job.model.build_command("--until", "export")
    return batch_axis.Probe(stage, source.reference, where, _same(job, golden), graph, command)


def origin(job: Job) -> str:
    """Return the place in config.yaml that names the model's source."""
    return job.model.where("file" if job.model.file else "source")


def _probed(job: Job, source: Source) -> tuple[int, ...]:
    if not source.batched:
        return (0,)
    return (job.model.batch.fixed,) if job.model.batch.fixed else batch_axis.PROBED


def _same(job: Job, golden: Sequence[Sample]) -> Callable[[str], Tolerance]:
    """Return what counts as the same FP32 answer: the default, or that of FP16 for FP16 samples, with `accept` on top."""
    half = any(array.dtype == np.float16 for array in golden[0].values())
    base = DEFAULTS["fp16" if half else "fp32"]
    return lambda output: replace(base, **job.model.accept.get(output, AcceptSpec()).model_dump(exclude_none=True))


def reference_answers(job: Job, source: Source, samples: Sequence[Sample]) -> tuple[list[Sample], Golden, list[str]]:
    """Return the golden samples that were used, the original model's answers, and a warning if some were left out.

    Raises:
        StageError: stage 'torch': an answer is NaN, so the weights or the preprocessing are wrong.
    """
    probe = probe_of(job, source, samples)
    first = _answer_of(source, samples[0], probe)
    size = _size(samples[0]) + _size(first)
    kept = [samples[i] for i in spread(len(samples), max(LEAST_GOLDEN, LIMIT_BYTES // max(size, 1)))]
    warnings = []
    if len(kept) < len(samples):
        limit = f"one takes {human_bytes(size)}, the limit for all is {human_bytes(LIMIT_BYTES)}"
        warnings.append(f"{len(kept)} of {len(samples)} golden samples used: {limit}")
    rows = console.progress(job.line("export", "reference answers"), kept, len(kept))
    outputs = [_answer_of(source, sample, probe) for sample in rows]
    _require_numbers(job, kept, outputs)
    weights = "random" if job.random_weights else "real"
    meta = {"weights": weights, "reference": source.spec.source, "batched": source.batched}
    return kept, Golden(group_by_shape(kept, outputs), meta), [*warnings, *_infinite(outputs)]


def _answer_of(source: Source, sample: Sample, probe: batch_axis.Probe) -> Arrays:
    answer = source.reference(batch_axis.rows([sample], 1 if source.batched else 0))
    if not source.batched:
        return {name: np.asarray(array) for name, array in answer.items()}
    batch_axis.require_one_row(probe, answer)
    return first_sample(answer)


def _size(arrays: Arrays) -> int:
    return sum(np.asarray(array).nbytes for array in arrays.values())


def _require_numbers(job: Job, samples: Sequence[Sample], outputs: Sequence[Arrays]) -> None:
    """Refuse NaN, unless the sample holds NaN or infinity, which a model may pass on. -inf is an ordinary mask."""
    for name in outputs[0]:
        pairs = zip(samples, outputs, strict=True)
        broken = sum(_has(np.isnan, answer[name]) and not _not_finite(sample) for sample, answer in pairs)
        if broken:
            why = f"{broken} of {len(outputs)} golden answers hold NaN, before any conversion; their samples hold no NaN or infinity"
            fix = "correct the weights or the preprocessing: the original model itself returns NaN"
            raise StageError("torch", Fault(f"output '{name}' is not a number", job.model.where("source"), why, fix))


def _infinite(outputs: Sequence[Arrays]) -> list[str]:
    """Return a warning per output that is +inf, which is seldom intended."""
    counts = {name: sum(_has(np.isposinf, answer[name]) for answer in outputs) for name in outputs[0]}
    among = f"of {len(outputs)} golden answers"
    return [f"output '{name}' is infinite in {count} {among}" for name, count in counts.items() if count]


def _not_finite(sample: Sample) -> bool:
    return any(_has(lambda values: ~np.isfinite(values), array) for array in sample.values())


def _has(test: Callable[[Any], Any], array: Any) -> bool:
    return bool(array.dtype.kind == "f" and test(array).any())


def check_file(job: Job, source: Source, path: Path, samples: Samples, golden: Golden) -> None:
    """Run the ONNX file at batch 1, 3 and max against the reference answers."""
    from builders.targets.ort import OrtEngine, open_session

    open_session(path, stage="onnx")
    engine = OrtEngine(path)
    fixed, tolerance = job.model.batch.fixed, _same(job, samples.golden)
    foreign, command = isinstance(source, OnnxFile), job.model.build_command("--until", "export")
    where = origin(job)
    if not foreign:
        probe = batch_axis.Probe("onnx", engine.run, where, tolerance, path, command)
        batch_axis.check(probe, samples.golden, _probed(job, source))
    sizes = [0] if not source.batched else [fixed] if fixed else sorted({1, 3, job.model.batch.largest})
    _require_memory(job, golden, max(sizes))
    what, fix = "answers in a batch differ from answers alone", batch_axis.UNMIXED
    if not foreign:
        what = "the ONNX file differs from the original model"
        fix = "make the model compute the same with and without its exporter, or use the other exporter"
    tolerances = {name: tolerance(name) for name in golden.groups[0].outputs}
    checks = answers.check_batches(engine.run, golden, tolerances, sizes)
    answers.require("onnx", what, checks, lambda _: where, command, fix)


def _require_memory(job: Job, golden: Golden, size: int) -> None:
    """Refuse a batch whose inputs and outputs do not fit into this machine's memory."""
    largest = max(sum(a[:1].nbytes for a in (*g.inputs.values(), *g.outputs.values())) for g in golden.groups)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if largest * size > memory * MEMORY_SHARE:
        what = f"a batch of {size} does not fit into memory"
        why = f"its inputs and outputs take {human_bytes(largest * size)}; this machine has {human_bytes(memory)}"
        key, command = "fixed" if job.model.batch.fixed else "max", job.model.build_command("--until", "export")
        raise StageError("onnx", Fault(what, job.model.where("batch", key), why, f"lower batch.{key}", command))


def check_distinct(job: Job) -> None:
    """Raise a StageError that names a pair of golden answers too alike for a swap to be noticed."""
    golden = Golden.load(job.export_folder / "golden.npz")
    alike = indistinct(golden, {name: job.model.tolerance(name) for name in golden.groups[0].outputs})
    if alike is not None and alike.fatal:
        outputs = ", ".join(f"'{name}'" for name in golden.groups[0].outputs)
        why = (f"only {math.floor(alike.distinct * 1000) / 10:g}% of sample pairs differ by more than twice the tolerance in any of {outputs} "
               f"(95% required); for example, samples {alike.pair[0]} and {alike.pair[1]} do not")  # fmt: skip
        fault = Fault("the golden samples are too similar to tell apart", job.model.where("accept"), why,
                      "choose more varied golden samples, or tighten 'accept'", job.model.build_command("--until", "verify"))  # fmt: skip
        raise StageError("export", fault)


def equal_answers(golden: Golden) -> list[str]:
    """Return a warning if many golden answers are equal, as those of labels and decision trees naturally are."""
    alike = indistinct(golden, {name: Tolerance() for name in golden.groups[0].outputs})
    if alike is None or alike.fatal or alike.equal < EQUAL_SHARE:
        return []
    return [f"{alike.equal:.0%} of the golden pairs have equal answers, so swapping them would go undetected; "
            "output scores as well as labels, or use more varied samples"]  # fmt: skip


def check_declared(source: Source, model: Any, golden: Golden) -> None:
    """Refuse an axis fixed at another length than the samples have; `builders.graphs.batch_axis` measures the batch. Raises StageError."""
    faults = [_axis_fault(source, *found) for found in _fixed_axes(source, model, golden)]
    if faults:
        raise StageError("onnx", *faults)


def _fixed_axes(source: Source, model: Any, golden: Golden) -> Iterator[tuple[str, str, int, int, list[int]]]:
    """Yield (kind, tensor, axis, length in the file, lengths seen) if the file fixes an axis at another length."""
    first = 1 if source.batched else 0
    for kind, items in (("input", model.graph.input), ("output", model.graph.output)):
        for item in items:
            arrays = [(g.inputs if kind == "input" else g.outputs).get(item.name) for g in golden.groups]
            shapes = [array.shape[1:] for array in arrays if array is not None]
            for axis, dim in enumerate(item.type.tensor_type.shape.dim[first:]):
                seen = sorted({shape[axis] for shape in shapes if axis < len(shape)})
                if dim.HasField("dim_value") and any(length != dim.dim_value for length in seen):
                    yield kind, item.name, axis + first, dim.dim_value, seen


def _axis_fault(source: Source, kind: str, name: str, axis: int, fixed: int, seen: list[int]) -> Fault:
    what = f"the ONNX file fixes axis {axis} of {kind} '{name}' at {fixed}"
    why = f"the golden samples have {', '.join(map(str, seen))} there"
    if not source.input_names:  # an ONNX file
        fix = "re-export it with that axis free"
        return Fault(what, source.spec.where("file"), why, fix, source.blame.check)
    fix = f"add {{'{name}': {{{axis}: 'length'}}}} to dynamic_axes, and take sizes from x.shape inside forward()"
    return Fault(what, place_of(type(source), "dynamic_axes"), why, fix, source.blame.check)
