"""Which nodes must stay in FP32 so that INT8 meets the accuracy gate, and at what cost.

In      a model whose precision is int8, exported.
Out     `Found`: the `keep_fp32` list for config.yaml, found on ONNX Runtime without a GPU; `Confirmed`: the list that meets the gate on an
        engine built here, and the speed with and without it.

Each node is quantized alone and its error against the golden answers taken; then the worst nodes are kept in FP32, as few as
meet the gate (found by bisection, because more nodes in FP32 are never worse by much). TensorRT rounds in its own way, so a list
that is just enough on ONNX Runtime may be too short there: nodes are added, worst first and doubling, until the engine's answers pass.
"""

from __future__ import annotations

import math
import shutil
import statistics
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builders import answers
from builders.diagnostics.bench_engine import measure_folder
from builders.diagnostics.lanes import BenchSetting
from builders.precision import int8
from builders.stage import Job
from planwright.compare import OutputCheck
from planwright.errors import Fault, StageError
from planwright.files import write_json
from planwright.golden import Golden

ROUNDS, SECONDS = 3, 1.0


@dataclass(frozen=True)
class Found:
    """What the search found.

    Attributes:
        keep_fp32: Nodes to keep in FP32, worst first; empty if INT8 passes without.
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
    """Find the nodes to keep in FP32; raises StageError if the gate is missed even with every node in FP32."""
    name, model = job.model.name, job.export_folder / "model.onnx"
    with tempfile.TemporaryDirectory() as scratch, int8.prepared(model, Path(scratch)) as graph:
        trial = _GraphTrial(job, graph, Path(scratch))
        everything = int8.weighted_nodes(graph)
        errors = {}
        for index, node in enumerate(everything, 1):
            errors[node] = 1 - _cosine(trial.checks([other for other in everything if other != node]))
            say(f"{name:<16} {index}/{len(everything)} {node}: alone it costs {errors[node]:.2e} of cosine")
        ranked = sorted(errors, key=lambda node: -errors[node])
        count = _fewest(lambda number: all(c.passed for c in trial.checks(ranked[:number])), len(ranked))
        if count is None:
            what, fix = (
                f"{name} fails its accuracy thresholds even with every node kept in FP32",
                "loosen accept, or use fp16",
            )
            raise StageError("graph", Fault(what, job.model.where("accept"), fix=fix))
        before, after = _cosine(trial.checks([])), _cosine(trial.checks(ranked[:count]))
        return Found(ranked[:count], _cost(graph, ranked[:count], everything), before, after, errors)


class _GraphTrial:
    """Quantizes with some nodes in FP32 and answers the golden samples."""

    def __init__(self, job: Job, graph: Path, folder: Path) -> None:
        self._job, self._graph, self._target = job, graph, folder / "trial.onnx"
        self._ranges = int8.calibrate(job, graph)
        self._golden = Golden.load(job.export_folder / "golden.npz")

    def checks(self, high: Collection[str]) -> list[OutputCheck]:
        from builders.targets.ort import OrtEngine

        int8.quantize(self._job, self._graph, self._ranges, self._target, high)
        return answers.check_engine(self._job, OrtEngine(self._target, level="extended"), self._golden)


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
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in proto.initializer}
    nodes = (node for node in proto.node if node.name in everything)
    weights = {node.name: sum(sizes.get(name, 0) for name in node.input) for node in nodes}
    return float(sum(weights[name] for name in high) / max(sum(weights.values()), 1))


@dataclass(frozen=True)
class Confirmed:
    """Result on the engine.

    Attributes:
        keep_fp32: Nodes to keep in FP32, worst first.
        builds: Engines that were built to find that out.
        batch: Batch size of the speeds.
        before_per_s, after_per_s: Samples per second with every node in INT8, and with `keep_fp32`; medians.
    """

    keep_fp32: list[str]
    builds: int
    batch: int
    before_per_s: float
    after_per_s: float


def confirm(job: Job, found: Found, say: Callable[[str], None]) -> Confirmed:
    """Build, check and time; raises StageError if the engine misses the gate with every node in FP32, or the target refuses."""
    ranked = sorted(found.errors, key=lambda node: -found.errors[node])
    with _engine_trial(job) as trial:
        plain = trial.build([])
        count, builds = len(found.keep_fp32), 1
        while True:
            folder = trial.build(ranked[:count]) if count else plain
            builds += bool(count)
            failed = [check for check in trial.checks(folder) if not check.passed]
            verdict = f"{'misses' if failed else 'meets'} the gate"
            say(f"{job.model.name:<16} {count} nodes in FP32 on {job.target.key()}: {verdict}")
            if not failed:
                break
            if count == len(ranked):
                why = f"output '{failed[0].output}': {failed[0].reason}"
                what = f"{job.model.name} fails its accuracy thresholds even with every node kept in FP32"
                raise StageError("engine", Fault(what, job.model.where("accept"), why))
            count = min(max(2 * count, count + 1), len(ranked))
        speeds = trial.speeds([plain, folder])
        return Confirmed(ranked[:count], builds, trial.batch, speeds[0], speeds[1])


@contextmanager
def _engine_trial(job: Job) -> Iterator[_EngineTrial]:
    """Yield a place among the model's graphs, where compile finds the export and the timing cache."""
    place = job.build / job.model.name / "graph"
    try:
        with int8.prepared(job.export_folder / "model.onnx", place) as graph:
            yield _EngineTrial(job, graph, place)
    finally:
        for folder in place.glob(".search-*"):
            shutil.rmtree(folder, ignore_errors=True)


class _EngineTrial:
    def __init__(self, job: Job, graph: Path, place: Path) -> None:
        self._job, self._graph, self._place = job, graph, place
        self._ranges = int8.calibrate(job, graph)
        self._golden = Golden.load(job.export_folder / "golden.npz")
        self.batch = job.model.batch.fixed or job.model.batch.bounds[1]

    def build(self, high: Collection[str]) -> Path:
        """Return the folder of an engine with the nodes `high` in FP32."""
        folder = self._place / f".search-{len(high)}"
        folder.mkdir(exist_ok=True)
        target = folder / "model.int8.onnx"
        int8.quantize(self._job, self._graph, self._ranges, target, high)
        write_json(folder / "stage.json", {"result": {"kept_high": list(high)}})
        engine = folder / "engine"
        engine.mkdir(exist_ok=True)
        self._job.target.compile(target, engine, self._job.model)
        return engine

    def checks(self, folder: Path) -> list[OutputCheck]:
        engine = self._job.target.load(folder)
        try:
            return answers.check_engine(self._job, engine, self._golden)
        finally:
            engine.close()

    def speeds(self, folders: Sequence[Path]) -> list[float]:
        """Return the median samples per second of each engine, measured in turn."""
        found: list[list[float]] = [[] for _ in folders]
        for _ in range(ROUNDS):
            for rates, folder in zip(found, folders, strict=True):
                rates.append(measure_folder(self._job, folder, BenchSetting(self.batch), SECONDS).samples_per_s)
        return [statistics.median(rates) for rates in found]
