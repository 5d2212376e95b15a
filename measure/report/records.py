"""Reports read back from disk, and checked before anything is made of them.

In      folders below runs/, report.json files, or baselines stored by ``python -m loadtest baseline``.
Out     `Record`s with typed rows, or one `SpecError` that holds every fault of every file.

A baseline of one run is its report.json as it is; one of several runs is a JSON value of kind ``baseline`` that holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from measure.report.schema import SCHEMA_VERSION, ModelFigures, RunReport, Second
from planwright.decimals import scaled
from planwright.errors import Fault, SpecError
from planwright.files import read_json, write_atomic

Key = tuple[str, str]
Value = dict[str, Any]
LATENCIES = ("p50", "p90", "p95", "p99", "mean")
BUILD = ("version", "precision", "target", "weights", "batch")
BASELINE, LAYOUT = "baseline", 1
_NAME_A_RUN = "name a folder below runs/, or a report.json"


@dataclass(frozen=True)
class Row:
    """The figures of one model over one transport in a run.

    Attributes:
        build: What was served, and the batch of the requests: the names of `BUILD`.
        slo_us: Limit of p99; None where there is none.
        requests: All that ended or never did.
        failures: Those that failed or were never answered, without the wrong answers.
        spans: Rows of the time series that lie between the end of the warm-up and the end of the load.
    """

    model: str
    protocol: str
    build: dict[str, str]
    slo_us: float | None
    requests: int
    failures: int
    checked: int
    wrong: int
    throughput_per_s: float
    samples_per_request: float
    latency_us: dict[str, float]
    histogram: list[tuple[int, int]]
    spans: list[Second]
    percentiles: list[tuple[float, float]]

    @property
    def name(self) -> str:
        return f"{self.model} over {self.protocol}"


@dataclass(frozen=True)
class Record:
    """One run: where it was read, its JSON value, its rows."""

    where: str
    report: Value
    rows: dict[Key, Row]

    @property
    def id(self) -> str:
        return str(self.report.get("id", ""))

    @property
    def load(self) -> Value:
        """How the requests came; a closed loop where the report does not say."""
        load = self.report.get("load")
        return {"arrivals": "closed", "scenario": "", "rate": "", **(load if isinstance(load, dict) else {})}


def read(
    paths: Sequence[Path], instead: str = "compare runs; the points of a sweep are compared in its own report"
) -> list[Record]:
    """Return the runs in `paths`, those of a baseline one by one; `instead` is the fix where a report is of something else.

    Raises:
        SpecError: Something is not the report of a run; every fault at once (exit 2).
    """
    found, faults = [], []
    for given in paths:
        path = given / "report.json" if given.is_dir() else given
        for value in _values(path):
            outcome = _record(str(path), value, instead)
            if isinstance(outcome, Record):
                found.append(outcome)
            else:
                faults.append(outcome)
    if faults:
        raise SpecError(*faults)
    return found


def write(path: Path, content: bytes) -> None:
    """Write a file that was named on the command line.

    Raises:
        SpecError: It cannot be written (exit 2).
    """
    try:
        write_atomic(path, content)
    except OSError as error:
        raise SpecError(Fault("cannot write the file", str(path), str(error), "name another place")) from None


def _values(path: Path) -> list[Any]:
    try:
        value = read_json(path)
    except OSError as error:
        return [error]
    runs = value.get("runs") if isinstance(value, dict) and value.get("kind") == BASELINE else None
    return runs if isinstance(runs, list) and runs else [value]


def _record(where: str, value: Any, instead: str) -> Record | Fault:
    if not isinstance(value, dict) or "schema" not in value or "kind" not in value:
        why = str(value) if isinstance(value, OSError) else "it is missing, truncated or not a report"
        return Fault("there is no report to read", where, why, _NAME_A_RUN)
    if value["schema"] != SCHEMA_VERSION:
        why = f"it has schema {value['schema']}; this version supports {SCHEMA_VERSION}"
        return Fault("the report has an unsupported schema version", where, why, "measure again with this version")
    if value["kind"] != "run":
        why = f"it is the report of a {value['kind']}"
        return Fault("the report is not that of a run", where, why, instead)
    try:
        run = RunReport.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg'][0].lower()}{first['msg'][1:]}"
        return Fault("the report is invalid", where, why, "measure again, or name another run")
    return Record(where, value, {(row.model, row.protocol): _row(run, row) for row in run.models})


def _row(run: RunReport, row: ModelFigures) -> Row:
    end_s = run.duration_s if run.window_s is None else run.warmup_s + run.window_s
    limit_ms = row.slo.get("p99_ms")
    return Row(
        model=row.model,
        protocol=row.protocol,
        build={name: str(getattr(row, name)) for name in BUILD},
        slo_us=None if limit_ms is None else scaled(limit_ms, "1000"),
        requests=row.requests + row.unanswered,
        failures=max(row.failures - row.wrong, 0) + row.unanswered,
        checked=row.checked,
        wrong=row.wrong,
        throughput_per_s=row.throughput_per_s,
        samples_per_request=row.samples_each,
        latency_us={name: getattr(row.latency_us, name) for name in LATENCIES},
        histogram=row.histogram,
        spans=[each for each in row.series if run.warmup_s <= each.t_s and each.t_s + each.width_s <= end_s],
        percentiles=row.percentiles,
    )
