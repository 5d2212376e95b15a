"""The second half of the search: check the list on an engine built here, and measure what it costs in speed.

In      what `builders.diagnostics.sensitivity` found on ONNX Runtime.
Out     `Confirmed`: the list that meets the gate on the built engine, and the speed with and without it.

TensorRT rounds in its own way, so a list that is just enough on ONNX Runtime may be too short there: nodes are added, worst
first and doubling, until the engine's answers pass. Speeds are measured in turn.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builders import answers
from builders.diagnostics.bench_engine import measure_folder
from builders.diagnostics.bench_figures import BenchSetting
from builders.diagnostics.sensitivity import Found
from builders.graphs import batch_axis
from builders.precision import int8
from builders.stage import Job
from planwright.compare import OutputCheck
from planwright.errors import Fault, StageError
from planwright.files import write_json
from planwright.golden import Golden

ROUNDS, SECONDS = 3, 1.0


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
    """Build, check and time.

    Raises:
        StageError: The engine misses the gate with every node high, or the target refuses.
    """
    ranked = sorted(found.errors, key=lambda node: -found.errors[node])
    with _trials(job) as trial:
        plain = trial.build([])
        count, builds = len(found.keep_fp32), 1
        while True:
            folder = trial.build(ranked[:count]) if count else plain
            builds += bool(count)
            failed = [check for check in trial.checks(folder) if not check.passed]
            say(
                f"{job.model.name:<16} {count} nodes in FP32 on {job.target.key()}: {'misses' if failed else 'meets'} the gate"
            )
            if not failed:
                break
            if count == len(ranked):
                why = f"output '{failed[0].output}': {failed[0].reason}"
                fault = Fault(
                    f"{job.model.name} fails its accuracy thresholds even with every node kept in FP32",
                    job.model.where("accept"),
                    why,
                )
                raise StageError("engine", fault)
            count = min(max(2 * count, count + 1), len(ranked))
        speeds = trial.speeds([plain, folder])
        return Confirmed(ranked[:count], builds, trial.batch, speeds[0], speeds[1])


@contextmanager
def _trials(job: Job) -> Iterator[_Trials]:
    """Yield a place among the model's graphs, where compile finds the export and the timing cache."""
    place = job.build / job.model.name / "graph"
    try:
        with int8.prepared(job.export_folder / "model.onnx", place) as graph:
            yield _Trials(job, graph, place)
    finally:
        for folder in place.glob(".search-*"):
            shutil.rmtree(folder, ignore_errors=True)


class _Trials:
    def __init__(self, job: Job, graph: Path, place: Path) -> None:
        self._job, self._graph, self._place = job, graph, place
        self._ranges = int8.calibrate(job, graph)
        self._golden = Golden.load(job.export_folder / "golden.npz")
        self.batch = job.model.batch.fixed or job.model.batch.bounds[1]

    def build(self, high: Collection[str]) -> Path:
        """Return the folder of an engine with the nodes `high` kept high."""
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
        tolerances = {name: self._job.model.tolerance(name) for name in self._golden.groups[0].outputs}
        size = batch_axis.run_size(self._job.model.batch, engine.inputs)
        try:
            return answers.check_batches(engine.run, self._golden, tolerances, [size])
        finally:
            engine.close()

    def speeds(self, folders: Sequence[Path]) -> list[float]:
        """Return the median samples per second of each engine, measured in turn."""
        found: list[list[float]] = [[] for _ in folders]
        for _ in range(ROUNDS):
            for rates, folder in zip(found, folders, strict=True):
                rates.append(measure_folder(self._job, folder, BenchSetting(self.batch), SECONDS).samples_per_s)
        return [statistics.median(rates) for rates in found]
