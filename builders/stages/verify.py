"""verify: compare the engine's answers with the golden answers.

In      the engine, golden and test samples.
Out     ``verify.json``: worst figures per output, batch invariance, the task metric. A failure stops the build.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from builders import answers
from builders.graphs import batch_axis
from builders.graphs.external_data import with_data
from builders.stage import Job, Stage
from builders.targets import Engine
from planwright import console
from planwright.errors import Fault, StageError, did_you_mean
from planwright.files import write_json
from planwright.golden import Arrays, Golden, Group

TEST_BATCH = 32


def _run(job: Job, folder: Path) -> Mapping[str, Any]:
    engine = job.target.load(job.compile_folder)
    golden = Golden.load(job.export_folder / "golden.npz")
    tolerances = {name: job.model.tolerance(name) for name in golden.groups[0].outputs}
    _check_names(job, engine, golden)
    _check_accept(job, golden.groups[0].outputs.keys())
    sizes = batch_sizes(job, engine)
    runs = sum(golden.runs(size) for size in sizes)
    run = console.counted(job.line("verify", "golden answers"), engine.run, runs)
    checks = answers.check_batches(run, golden, tolerances, sizes)
    command, fix = job.model.build_command("--from", "compile", "--until", "verify"), answers.precision_fix(job.model)
    where = partial(job.model.where, "accept")
    answers.require("engine", f"{job.model.name} at {job.model.precision}", checks, where, command, fix)
    if sizes[-1] > 1 and len(sizes) > 1:
        invariance = answers.check_invariance(engine.run, golden, tolerances, sizes[-1])
        answers.require("engine", "an answer depends on its neighbours in the batch", invariance, where, command)
    score = _score(job, engine)
    engine.close()
    result = {"batches": sizes, "outputs": [check.as_dict() for check in checks], "score": score}
    write_json(folder / "verify.json", result)
    return result


def batch_sizes(job: Job, engine: Engine) -> list[int]:
    """Return the batch sizes to check: min, middle and max; [N] if fixed; [0] without a batch axis."""
    kind = batch_axis.kind(job.model.batch, engine.inputs)
    if kind == "none":
        return [0]
    low, _, high = job.model.batch.bounds
    return [high] if kind == "fixed" else sorted({low, (low + high) // 2, high})


def _check_names(job: Job, engine: Engine, golden: Golden) -> None:
    """Refuse an engine whose tensors differ from those of the golden samples."""
    group = golden.groups[0]
    for kind, tensors, known in (("input", engine.inputs, group.inputs), ("output", engine.outputs, group.outputs)):
        declared = {tensor.name for tensor in tensors}
        if declared != set(known):
            what, why = f"the engine's {kind}s differ from the model's", f"the engine has {sorted(declared)}"
            why += f", the golden samples have {sorted(known)}"
            fix = f"build {job.model.name} again with --force"
            raise StageError("engine", Fault(what, str(job.compile_folder), why, fix))


def _score(job: Job, engine: Engine) -> dict[str, float]:
    """Return the task metric on the held-out samples; raises StageError if it is below `score` in config.yaml."""
    path = job.export_folder / "test.npz"
    if not path.exists():
        return {}
    source = job.load_source()
    test = Golden.load(path)
    size = batch_axis.run_size(job.model.batch, engine.inputs, min(TEST_BATCH, job.model.batch.largest))
    collected = [part for group in test.groups for part in _answered(engine, group, size)]
    answers_all = {name: np.concatenate([part[name] for part in collected]) for name in collected[0]}
    truth = np.concatenate([group.outputs["truth"] for group in test.groups])
    value = source.score(answers_all, truth)
    least = job.model.score.get(source.metric)
    if least is not None and value < least:
        fix = answers.precision_fix(job.model) or "train the model further, or lower 'score'"
        fault = Fault(f"{source.metric} is {value:.4f}, 'score' requires {least}", job.model.where("score", source.metric),
                      f"on {len(test)} held-out samples at {job.model.precision}", fix, job.model.build_command("--until", "verify"))  # fmt: skip
        raise StageError("engine", fault)
    return {source.metric: round(value, 6)}


def _answered(engine: Engine, group: Group, size: int) -> Iterator[Arrays]:
    """Yield the answers to every sample of a group, in batches of `size`; 0 sends samples without a batch axis."""
    for start in range(0, len(group), size or 1):
        found = batch_axis.restore(engine.run(batch_axis.take(group, start, size)), size)
        yield {name: array[: len(group) - start] for name, array in found.items()}


def _check_accept(job: Job, outputs: Collection[str]) -> None:
    """Refuse an ``accept`` for an output that the model lacks, or a ``score`` for a metric that it does not compute; raises StageError."""
    metric = job.load_source().metric
    check = job.model.build_command("--until", "verify")
    faults = [
        Fault(f"'accept' names '{name}', which is not an output", job.model.where("accept", name),
              fix=did_you_mean(name, outputs), check=check)
        for name in job.model.accept if name not in outputs
    ] + [
        Fault(f"'score' names '{name}', which {job.model.source} does not compute", job.model.where("score", name),
              fix=did_you_mean(name, [metric]) if metric else "remove the line, or define metric and score() in the model", check=check)
        for name in job.model.score if name != metric
    ]  # fmt: skip
    if faults:
        raise StageError("verify", *faults)


def _spec_part(job: Job) -> dict[str, Any]:
    accept = {name: job.model.tolerance(name).as_dict() for name in ("", *job.model.accept)}
    return {"batch": list(job.model.batch.bounds), "accept": accept, "score": job.model.score}


def _inputs(job: Job) -> dict[str, Path]:
    found = with_data(job.compile_folder / job.target.filename)
    found |= {name: job.export_folder / name for name in ("golden.npz", "test.npz")}
    return {label: path for label, path in found.items() if path.exists() or label != "test.npz"}


VERIFY = Stage("verify", 1, lambda job: job.verify_folder, _spec_part, _inputs, lambda job: job.target.versions(), _run)
