"""Run golden samples through an engine or a graph and check its answers.

In      a function from batch to batch, the golden samples, the tolerances.
Out     checks per output, or a `StageError` that names the stage, the output and the batch size.

Used by export (ONNX against torch), graph and verify, so that all of them judge by the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from builders.graphs import batch_axis
from builders.stage import Job
from builders.targets import Engine
from planwright.compare import OutputCheck, Tolerance, compare, merge
from planwright.config.spec import ModelSpec
from planwright.errors import Fault, StageError
from planwright.golden import Arrays, Golden

Run = Callable[[Arrays], Arrays]
Tolerances = Mapping[str, Tolerance]  # by output


def check_engine(job: Job, engine: Engine, golden: Golden) -> list[OutputCheck]:
    """Answer all golden samples at one batch size that the engine takes."""
    tolerances = {name: job.model.tolerance(name) for name in golden.groups[0].outputs}
    return check_batches(engine.run, golden, tolerances, [batch_axis.run_size(job.model.batch, engine.inputs)])


def check_batches(run: Run, golden: Golden, tolerances: Tolerances, sizes: Iterable[int]) -> list[OutputCheck]:
    """Answer all golden samples at each batch size; size 0 sends each sample without a batch axis."""
    found: dict[str, list[OutputCheck]] = {}
    for size in sizes:
        for group in golden.batches(size or 1):
            answers = batch_axis.restore(run(batch_axis.feed(group.inputs, size)), size)
            for name, expected in group.outputs.items():
                found.setdefault(name, []).append(compare(name, expected, answers[name], tolerances[name]))
    return [merge(checks) for checks in found.values()]


def check_invariance(run: Run, golden: Golden, tolerances: Tolerances, size: int) -> list[OutputCheck]:
    """Compare a sample alone with the same sample first, in the middle and last in a full batch.

    The neighbours are other golden samples, so an answer that leaks between rows or moves to another row is noticed.
    """
    group = golden.groups[0]
    checks: dict[str, list[OutputCheck]] = {}
    alone = run(group.take([0]).inputs)
    for position in sorted({0, size // 2, size - 1}):
        order = [1 + i % max(len(group) - 1, 1) if len(group) > 1 else 0 for i in range(size)]
        order[position] = 0
        answers = run(group.take(order).inputs)
        for name, expected in alone.items():
            check = compare(name, expected, answers[name][position : position + 1], tolerances[name])
            checks.setdefault(name, []).append(check)
    return [merge(found) for found in checks.values()]


def require(
    stage: str, what: str, checks: Iterable[OutputCheck], where: Callable[[str], str], check_command: str, fix: str = ""
) -> None:
    """Raise a StageError with one fault per output that failed; `fix` comes before the general advice."""
    advice = "; ".join(filter(None, [fix, "loosen 'accept' only if the model's users can accept the error"]))
    failed = [check for check in checks if not check.passed]
    faults = [Fault(f"{what}: output '{each.output}' is wrong", where(each.output), each.reason, advice, check_command)
              for each in failed]  # fmt: skip
    if faults:
        raise StageError(stage, *faults)


def precision_fix(spec: ModelSpec) -> str:
    """Return what to do if a lower precision costs too much accuracy."""
    if spec.precision == "int8":
        return f"keep in FP32 the nodes that INT8 harms most; find them with {spec.command('-m builders search')}"
    return "" if spec.precision == "fp32" else "choose a higher precision"
