"""Which nodes must stay high so that INT8 meets the accuracy gate, and at what cost.

In      a model whose precision is int8, exported.
Out     the `keep_fp32` list for config.yaml, the figures with and without it, the share of multiplications kept high.

Each node is quantized alone and its error against the golden answers taken; then the worst nodes are kept high, as few as
meet the gate (found by bisection, because more kept high is never worse by much). Runs on ONNX Runtime, so it needs no GPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders import answers
from builders.graphs import batch_axis
from builders.precision import int8
from builders.stage import Job
from planwright.compare import OutputCheck
from planwright.errors import Fault, StageError
from planwright.golden import Golden


@dataclass(frozen=True)
class Found:
    """What the search found.

    Attributes:
        keep_fp32: Nodes to keep in FP32, worst first; empty where INT8 passes without.
        cost: Share of the weights' elements that is no longer INT8.
        before, after: Worst cosine over the outputs with all nodes in INT8, and with `keep_fp32`.
        errors: Node -> 1 - cosine with only that node in INT8.
    """

    keep_fp32: list[str]
    cost: float
    before: float
    after: float
    errors: dict[str, float]


def search(job: Job, say: Callable[[str], None]) -> Found:
    """Find the nodes to keep in FP32.

    Raises:
        StageError: stage 'graph': even with every node in FP32 the gate is not met.
    """
    with (
        tempfile.TemporaryDirectory() as scratch,
        int8.prepared(job.export_folder / "model.onnx", Path(scratch)) as graph,
    ):
        trial = _Trial(job, graph, Path(scratch))
        everything = int8.weighted_nodes(graph)
        errors = {}
        for index, node in enumerate(everything):
            errors[node] = 1 - _cosine(trial.checks([other for other in everything if other != node]))
            say(
                f"{job.model.name:<16} {index + 1}/{len(everything)} {node}: alone it costs {errors[node]:.2e} of cosine"
            )
        ranked = sorted(errors, key=lambda node: -errors[node])
        count = _fewest(lambda number: all(c.passed for c in trial.checks(ranked[:number])), len(ranked))
        if count is None:
            fix = "loosen accept, or use fp16"
            raise StageError(
                "graph",
                Fault(
                    f"{job.model.name} fails its accuracy thresholds even with every node kept in FP32",
                    job.model.where("accept"),
                    fix=fix,
                ),
            )
        before, after = _cosine(trial.checks([])), _cosine(trial.checks(ranked[:count]))
        return Found(ranked[:count], _cost(graph, ranked[:count], everything), before, after, errors)


class _Trial:
    """Quantizes with some nodes kept in FP32 and answers the golden samples."""

    def __init__(self, job: Job, graph: Path, folder: Path) -> None:
        self._job, self._graph, self._target = job, graph, folder / "trial.onnx"
        self._ranges = int8.calibrate(job, graph)
        self._golden = Golden.load(job.export_folder / "golden.npz")

    def checks(self, high: Collection[str]) -> list[OutputCheck]:
        from builders.targets.ort import OrtEngine

        int8.quantize(self._job, self._graph, self._ranges, self._target, high)
        engine = OrtEngine(self._target, level="extended")
        tolerances = {name: self._job.model.tolerance(name) for name in self._golden.groups[0].outputs}
        size = batch_axis.run_size(self._job.model.batch, engine.inputs)
        return answers.check_batches(engine.run, self._golden, tolerances, [size])


def _fewest(passes: Callable[[int], bool], most: int) -> int | None:
    """Return the smallest number that passes, by bisection; None where not even `most` does."""
    if not passes(most):
        return None
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle + 1, high)
    return low


def _cosine(checks: list[OutputCheck]) -> float:
    return min(check.cosine for check in checks)


def _cost(graph: Path, high: Collection[str], everything: Collection[str]) -> float:
    import onnx

    proto = onnx.load(str(graph)).graph
    sizes = {tensor.name: _elements(tensor) for tensor in proto.initializer}
    weights = {
        node.name: sum(sizes.get(name, 0) for name in node.input) for node in proto.node if node.name in everything
    }
    return sum(weights[name] for name in high) / max(sum(weights.values()), 1)


def _elements(tensor: Any) -> int:
    count = 1
    for dim in tensor.dims:
        count *= dim
    return count
