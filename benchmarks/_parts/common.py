"""What the benchmarks share: command line, inputs, a server, rows against targets, the machine's description, the record.

In      a repository, figures.
Out     a running server; benchmarks/results/<name>.json, only from a complete measurement.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clients import published
from measure.report.build import installed, processor, utc_now
from planwright import console
from planwright.errors import EXIT_FAILED, EXIT_OK, Fault, MachineError
from planwright.files import ROOT as ROOT
from planwright.files import write_json
from planwright.own_server import own_server
from planwright.server_info import ServerInfo

RESULTS = ROOT / "benchmarks" / "results"
CHECK = "exit 1 where a target is missed"
WITHOUT_WEIGHTS = "resnet50"  # its weights come from torchvision's host; speed does not depend on their values
Completed = subprocess.CompletedProcess[str]
PACKAGES = ("onnxruntime", "torch", "numpy", "tritonclient", "geventhttpclient", "grpcio", "locust")


def parser(doc: str | None, *, check: str = CHECK, repository: bool = True) -> console.Parser:
    """Return a script's command line, described by the first line of its docstring; without `check` there is no ``--check``."""
    p = console.Parser(prog=f"benchmarks/{Path(sys.argv[0]).name}", description=(doc or "").partition("\n")[0])
    if repository:
        published_in = ROOT / "model_repository"
        p.add_argument("--repository", type=Path, default=published_in, help="where the models are published")
    if check:
        p.add_argument("--check", action="store_true", help=check)
    return p


@contextmanager
def scratch_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="planwright-bench-") as folder:
        yield Path(folder)


@contextmanager
def serve(repository: Path, *flags: str, prefix: Sequence[str] = (), file: Path | None = None) -> Iterator[ServerInfo]:
    """Run ``python -m serving`` on free ports.

    Args:
        repository: The models.
        flags: Further flags of ``python -m serving``.
        prefix: A program that runs it, such as ``taskset -c 0``.
        file: Where to write the server file for clients and load tests.
    """
    with scratch_folder() as scratch:
        common = ("--allow-client-shm", "--model-repository", str(repository))
        with own_server(*common, *flags, file=scratch / "server.json", prefix=prefix, log=scratch / "log.txt") as info:
            if file is not None:
                info.write(file)
            yield info


def run_module(*words: str, timeout_s: float | None = None, show_errors: bool = False) -> Completed:
    """Run ``python -m`` in the checkout and capture its output; with `show_errors` its stderr goes to the terminal."""
    errors = None if show_errors else subprocess.PIPE
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=timeout_s)


def perf_analyzer(*words: str, timeout_s: float, accept_unstable: bool = False) -> float:
    """Run perf_analyzer and return its inferences per second; it exits with an error where they are not stable.

    Raises:
        MachineError: It failed.
    """
    with tempfile.NamedTemporaryFile(suffix=".csv") as out:
        done = subprocess.run([*words, "-f", out.name], capture_output=True, text=True, timeout=timeout_s)
        rows = list(csv.DictReader(Path(out.name).read_text().splitlines()))
    if not rows or (done.returncode and not accept_unstable):
        raise MachineError(Fault("perf_analyzer failed", why=(done.stdout + done.stderr)[-800:], fix="run it by hand"))
    return float(rows[0]["Inferences/Second"])


def random_weights(*names: str) -> list[str]:
    """Return the flags that build those of the models without weights of their own, fixed or at any precision.

    >>> random_weights("minilm", "resnet50_fp16")
    ['--random-weights', 'resnet50_fp16']
    """
    return [flag for name in names if name.startswith(WITHOUT_WEIGHTS) for flag in ("--random-weights", name)]


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"ratio": statistics.median(values), "low": min(values), "high": max(values)}


def ratio_row(
    what: str, ratios: Sequence[float], target: float | None, *, sign: str = ">=", detail: str = ""
) -> dict[str, Any]:
    """Return a row of a record: the median of a ratio over the rounds, compared with its target if it has one."""
    row = spread(ratios)
    met = target is None or (row["ratio"] >= target if sign in (">=", "≥") else row["ratio"] <= target)
    return {"what": what, **row, "ratios": list(ratios), "target": target, "sign": sign, "met": met, "detail": detail}


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def show_ratios(title: str, rows: Sequence[dict[str, Any]]) -> None:
    columns = ["what", "median", "range over rounds", "target", "detail"]
    cells = []
    for row in rows:
        target = "" if row["target"] is None else f"{row['sign']} {row['target']:g} {verdict(row['met'])}"
        bounds = f"{row['low']:.3f} – {row['high']:.3f}"
        cells.append([row["what"], f"{row['ratio']:.3f}", bounds, target, row["detail"]])
    console.table(title, columns, cells)


@dataclass
class Inputs:
    """What a benchmark needs, checked before it measures.

    What is missing is named, fails ``--check`` and leaves the record unchanged: a table with half of its rows is not a record.
    """

    missing: list[Fault] = field(default_factory=list)

    def models(self, repository: Path, *names: str) -> list[str]:
        there = published.models(repository) if repository.is_dir() else []
        for name in names:
            if name not in there:
                fix = " ".join(["python builders/build_all.py", name, *random_weights(name)])
                self.missing.append(Fault(f"{name} is not published", str(repository), fix=fix))
        return [name for name in names if name in there]

    def package(self, module: str, fix: str) -> None:
        if find_spec(module) is None:
            self.missing.append(Fault(f"the package {module} is not installed", fix=fix))

    def program(self, name: str, fix: str, variable: str = "") -> str:
        """Return the path of a program: that of the environment variable, or that on the path; empty where there is none."""
        found = os.environ.get(variable) if variable else None
        found = found or shutil.which(name)
        if found is None or shutil.which(found) is None:
            why = f"it is neither in {variable} nor on the path" if variable else "it is not on the path"
            self.missing.append(Fault(f"{name} is not installed", why=why, fix=fix))
            return ""
        return found

    def folder(self, path: Path, fix: str) -> None:
        if not path.is_dir():
            self.missing.append(Fault(f"the folder {path} is missing", fix=fix))

    def cores(self, count: int) -> None:
        here = len(os.sched_getaffinity(0))
        if here < count:
            why = f"this process may use {here}"
            self.missing.append(Fault(f"{count} cores are needed", why=why, fix="run it on another machine"))

    def require(self) -> None:
        """Raise a `MachineError` with everything that is missing (exit 3)."""
        if self.missing:
            raise MachineError(*self.missing)

    def conclude(self, name: str, value: dict[str, Any], *, met: bool, check: bool) -> int:
        """Write the record `name` where nothing was missing; returns the exit code, with `check` 1 for a missed target or input."""
        self.keep(name, value)
        return EXIT_FAILED if check and (self.missing or not met) else EXIT_OK

    def keep(self, name: str, value: dict[str, Any]) -> None:
        """Write the record `name` where nothing was missing, else report what was."""
        path = RESULTS / f"{name}.json"
        for fault in self.missing:
            console.warn(f"not measured: {fault.what}; {fault.fix}")
        if self.missing:
            console.say(f"the record is unchanged: {path.relative_to(ROOT)}")
        else:
            console.say(f"record: {record(name, value).relative_to(ROOT)}")


def stamp() -> dict[str, Any]:
    """Return when, where and with which versions something was measured."""
    return {
        "created": utc_now(),
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": installed(PACKAGES),
    }


def record(name: str, value: dict[str, Any]) -> Path:
    path = RESULTS / f"{name}.json"
    write_json(path, value)
    return path


def read_record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def ratio_words(ratio: dict[str, float]) -> str:
    """Format a ratio and its interval.

    >>> ratio_words({"mean": 1.0064, "low": 0.963, "high": 1.05})
    '1.006 (0.963 – 1.050)'
    """
    return f"{ratio['mean']:.3f} ({ratio['low']:.3f} – {ratio['high']:.3f})"
