"""What every benchmark shares: its inputs, a server of its own, the machine's description, the record.

In      a repository, figures.
Out     a running server; benchmarks/results/<name>.json, only from a measurement that lacked nothing.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clients import published
from planwright import console
from planwright.errors import EXIT_FAILED, EXIT_OK, Fault, MachineError
from planwright.files import write_json
from planwright.own_server import own_server
from planwright.server_info import ServerInfo

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
WITHOUT_WEIGHTS = "resnet50"  # its weights come from torchvision's host; speed does not depend on their values
PACKAGES = ("onnxruntime", "torch", "numpy", "tritonclient", "geventhttpclient", "grpcio", "locust")


@contextmanager
def serve(repository: Path, *flags: str, prefix: Sequence[str] = ()) -> Iterator[ServerInfo]:
    """Run ``python -m serving`` on free ports; `prefix` may pin it, such as ``taskset -c 0``."""
    with tempfile.TemporaryDirectory(prefix="planwright-bench-") as folder:
        scratch = Path(folder)
        common = ("--allow-client-shm", "--model-repository", str(repository))
        with own_server(*common, *flags, file=scratch / "server.json", prefix=prefix, log=scratch / "log.txt") as info:
            yield info


def random_weights(*names: str) -> list[str]:
    """Return the flags that build those of the models without weights of their own, fixed or at any precision.

    >>> random_weights("minilm", "resnet50_fp16")
    ['--random-weights', 'resnet50_fp16']
    """
    return [flag for name in names if name.startswith(WITHOUT_WEIGHTS) for flag in ("--random-weights", name)]


@dataclass
class Inputs:
    """What a benchmark needs, looked for before it measures.

    What is missing is named, fails ``--check`` and leaves the record as it is: a table of half the rows is no record.
    """

    missing: list[Fault] = field(default_factory=list)

    def models(self, repository: Path, *names: str) -> list[str]:
        """Return those of the models that are published."""
        there = published.models(repository) if repository.is_dir() else []
        for name in names:
            if name not in there:
                fix = " ".join(["python builders/build_all.py", name, *random_weights(name)])
                self.missing.append(Fault(f"{name} is not published", str(repository), fix=fix))
        return [name for name in names if name in there]

    def package(self, module: str, fix: str) -> None:
        """Look for an installed package."""
        if find_spec(module) is None:
            self.missing.append(Fault(f"the package {module} is not installed", fix=fix))

    def program(self, name: str, fix: str, variable: str = "") -> str:
        """Return the path of a program: that of the environment variable, or that on the path; empty where there is none."""
        found = os.environ.get(variable) if variable else None
        found = found or shutil.which(name)
        if found is None or shutil.which(found) is None:
            why = f"it is looked for in {variable} and on the path" if variable else "it is not on the path"
            self.missing.append(Fault(f"there is no {name}", why=why, fix=fix))
            return ""
        return found

    def folder(self, path: Path, fix: str) -> None:
        """Look for a folder that an earlier step leaves."""
        if not path.is_dir():
            self.missing.append(Fault(f"there is no folder {path}", fix=fix))

    def cores(self, count: int) -> None:
        """Look whether this process may use so many cores."""
        here = len(os.sched_getaffinity(0))
        if here < count:
            self.missing.append(
                Fault(f"{count} cores are needed", why=f"this process may use {here}", fix="run it on another machine")
            )

    def require(self) -> None:
        """Stop where anything is missing, because nothing can be measured without it.

        Raises:
            MachineError: With everything that is missing (exit 3).
        """
        if self.missing:
            raise MachineError(*self.missing)

    def conclude(self, name: str, value: dict[str, Any], *, met: bool, check: bool) -> int:
        """Write the record `name` where nothing was missing; returns the exit code, with `check` 1 for a missed target or input."""
        self.keep(name, value)
        return EXIT_FAILED if check and (self.missing or not met) else EXIT_OK

    def keep(self, name: str, value: dict[str, Any]) -> None:
        """Write the record `name` where nothing was missing, else say what was."""
        path = RESULTS / f"{name}.json"
        for fault in self.missing:
            console.warn(f"not measured: {fault.what}; {fault.fix}")
        if self.missing:
            console.say(f"the record stays as it was: {path.relative_to(ROOT)}")
        else:
            console.say(f"record: {record(name, value).relative_to(ROOT)}")


def stamp() -> dict[str, Any]:
    """Return when, where and with which versions something was measured."""
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def record(name: str, value: dict[str, Any]) -> Path:
    """Write the record of a measurement."""
    path = RESULTS / f"{name}.json"
    write_json(path, value)
    return path


def read_record(name: str) -> dict[str, Any]:
    """Return the record of a measurement."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def ratio_words(ratio: dict[str, float]) -> str:
    """Return a ratio and its interval.

    >>> ratio_words({"mean": 1.0064, "low": 0.963, "high": 1.05})
    '1.006 (0.963 – 1.050)'
    """
    return f"{ratio['mean']:.3f} ({ratio['low']:.3f} – {ratio['high']:.3f})"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
