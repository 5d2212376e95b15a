"""What the trial load and the check of the repository's files cost.

In      config.yaml of the checkout, whose minilm is built from nothing; ten models of 20 MB, made here.
Out     a table and benchmarks/results/trial_load.json; with ``--check`` exit code 1 where a stated target is missed.

Both sides of a figure are measured in turn, the order reversed from round to round. A build of minilm has the trial load, which hashes
and starts a server, or ``--no-trial-load``. A server starts on the ten models with ``--trust-repository``, with hashes that it
remembers from the start before, or with none. Targets: the build at most 1.1 of the one without, the start with remembered hashes at
most 0.3 s longer. A row without a target has the trial load's own seconds over the rest of the same build, which other work on the
machine changes less. Where minilm cannot be built here nothing is recorded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._parts.common import record, stamp  # noqa: E402
from planwright import console  # noqa: E402
from planwright.errors import Fault, MachineError  # noqa: E402
from planwright.own_server import own_server  # noqa: E402

BUILD_RATIO, START_S = 1.1, 0.3
MODELS, WIDTH, DEPTH = 10, 4096, 1280  # FP32 weights of 20 MB each


def main() -> int:
    """Measure both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--builds", type=int, default=4, help="rounds of builds (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=10, help="rounds of server starts (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="planwright-bench-") as folder:
        scratch = Path(folder)
        shares: list[float] = []
        builds = _in_turn(
            args.builds,
            {"without": lambda: _build(scratch, "--no-trial-load"), "with": lambda: _build(scratch, shares=shares)},
        )
        repository = _ten_models(scratch)
        start = Starts(repository, scratch)
        starts = _in_turn(args.starts, {"trusted": start.trusted, "remembered": start.remembered, "first": start.first})
    rows = [*_build_rows(builds, shares), *_start_rows(starts)]
    console.table("trial_load", ["what", "median", "range over rounds", "target", "detail"],
                  [(r["what"], f"{r['value']:.3f}", f"{r['low']:.3f} – {r['high']:.3f}", _target(r), r["detail"]) for r in rows])  # fmt: skip
    path = record("trial_load", {**stamp(), "builds": args.builds, "starts": args.starts, "rows": rows})
    console.say(f"record: {path.relative_to(ROOT)}")
    return 1 if args.check and any(row["met"] is False for row in rows) else 0


def _in_turn(rounds: int, sides: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Return seconds per side and round; every second round goes backwards."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            found[name].append(sides[name]())
            console.say(f"round {number + 1}/{rounds}  {name:<12} {found[name][-1]:.2f} s")
    return found


def _build(scratch: Path, *flags: str, shares: list[float] | None = None) -> float:
    """Return the seconds of a build of minilm from nothing; `shares` takes the trial load's seconds over those of the rest."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        places = ["--build", f"{folder}/build", "--repository", f"{folder}/repository"]
        began = time.perf_counter()
        _run("minilm", "--config", str(ROOT / "config.yaml"), *places, *flags)
        seconds = time.perf_counter() - began
        if shares is not None:
            proof = json.loads((Path(folder) / "repository/minilm/1/build.json").read_text())["trial_load"]
            shares.append(proof["seconds"] / (seconds - proof["seconds"]))
        return seconds


def _ten_models(scratch: Path) -> Path:
    """Publish ten ONNX files of 20 MB; returns the repository."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    config = ["version: 1", "models:"]
    for number in range(MODELS):
        weights = np.random.default_rng(number).normal(size=(WIDTH, DEPTH)).astype(np.float32)
        sides = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
            for name, width in (("x", WIDTH), ("y", DEPTH))
        ]
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            sides[:1],
            sides[1:],
            [numpy_helper.from_array(weights, "w")],
        )
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10),
            scratch / f"m{number}.onnx",
        )
        config += [f"  m{number}:", f"    source: m{number}.onnx", "    batch: {max: 4}", "    samples: {golden: 4}"]
    (scratch / "config.yaml").write_text("\n".join(config) + "\n")
    _run("--config", str(scratch / "config.yaml"), "--no-trial-load")
    return scratch / "model_repository"


def _run(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "builders/build_all.py", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        why = (done.stdout + done.stderr)[-1500:]
        raise MachineError(
            Fault("a build that is to be measured fails", why=why, fix="see what it says", check=" ".join(words))
        )


class Starts:
    """Server starts on one repository."""

    def __init__(self, repository: Path, scratch: Path) -> None:
        self._repository, self._folder = repository, scratch / "server"
        self._folder.mkdir()
        self.first()

    def trusted(self) -> float:
        """Return the seconds of a start that compares nothing."""
        return self._start("--trust-repository")

    def remembered(self) -> float:
        """Return the seconds of a start that finds each hash where the start before left it."""
        return self._start()

    def first(self) -> float:
        """Return the seconds of a start that reads every file."""
        (self._folder / "hashes.json").unlink(missing_ok=True)
        return self._start()

    def _start(self, *flags: str) -> float:
        began = time.perf_counter()
        with own_server("--model-repository", str(self._repository), "--exit-timeout-secs=0", *flags,
                        file=self._folder / "server.json", log=self._folder / "log.txt"):  # fmt: skip
            return time.perf_counter() - began


def _build_rows(builds: dict[str, list[float]], shares: list[float]) -> list[dict[str, Any]]:
    ratios = [b / a for a, b in zip(builds["without"], builds["with"], strict=True)]
    detail = f"{statistics.median(builds['with']):.1f} and {statistics.median(builds['without']):.1f} s"
    return [
        _row("build of minilm, with the trial load / without", ratios, BUILD_RATIO, detail),
        _row("trial load of minilm / the rest of the build", shares, None, ""),
    ]


def _start_rows(starts: dict[str, list[float]]) -> list[dict[str, Any]]:
    rows = []
    for name, target in (("remembered", START_S), ("first", None)):
        longer = [b - a for a, b in zip(starts["trusted"], starts[name], strict=True)]
        detail = f"{statistics.median(starts[name]):.2f} and {statistics.median(starts['trusted']):.2f} s"
        rows.append(_row(f"start with {MODELS} models, hashes {name} − trusted, s", longer, target, detail))
    return rows


def _row(what: str, values: list[float], target: float | None, detail: str) -> dict[str, Any]:
    middle = statistics.median(values)
    met = None if target is None else middle <= target
    return {"what": what, "value": middle, "low": min(values), "high": max(values), "values": values, "target": target,
            "met": met, "detail": detail}  # fmt: skip


def _target(row: dict[str, Any]) -> str:
    return "" if row["target"] is None else f"≤ {row['target']:g} {'met' if row['met'] else 'MISSED'}"


if __name__ == "__main__":
    console.run(lambda _: main())
