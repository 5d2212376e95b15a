"""The cost of the trial load and of the hash check of the repository.

In      config.yaml of the checkout, whose minilm is built from scratch; ten models of 20 MB, made here.
Out     a table and benchmarks/results/trial_load.json; with ``--check`` exit code 1 where a stated target is missed.

Both sides of a figure are measured interleaved, in alternating order. A build of minilm has the trial load, which hashes
and starts a server, or ``--no-trial-load``. A server starts on the ten models with ``--trust-repository``, with hashes cached by
the start before, or without any. Targets: the build at most 1.1 of the one without, the start with cached hashes at
most 0.3 s longer. A row without a target has the trial load's own seconds over the rest of the same build, which depends less
on other load of the machine. Where minilm cannot be built here nothing is recorded.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._parts.common import ROOT, Inputs, parser, ratio_row, scratch_folder, show_ratios, stamp
from measure.operating_point.measurement import interleaved
from planwright import console
from planwright.errors import Fault, MachineError
from planwright.own_server import own_server

BUILD_RATIO, START_S = 1.1, 0.3
MODELS, WIDTH, DEPTH = 10, 4096, 1280  # FP32 weights of 20 MB each


def main(argv: Sequence[str]) -> int:
    p = parser(__doc__, repository=False)
    p.add_argument("--builds", type=int, default=4, help="rounds of builds (default: %(default)s)")
    p.add_argument("--starts", type=int, default=10, help="rounds of server starts (default: %(default)s)")
    args = p.parse_args(argv)
    with scratch_folder() as scratch:
        shares: list[float] = []
        sides = {"without": lambda: _build(scratch, "--no-trial-load"), "with": lambda: _build(scratch, shares=shares)}
        builds = _seconds(args.builds, sides)
        start = Starts(_ten_models(scratch), scratch)
        starts = _seconds(args.starts, {"trusted": start.trusted, "cached": start.cached, "uncached": start.uncached})
    rows = [*_build_rows(builds, shares), *_start_rows(starts)]
    show_ratios("trial_load", rows)
    value = {**stamp(), "builds": args.builds, "starts": args.starts, "rows": rows}
    return Inputs().conclude("trial_load", value, met=all(row["met"] for row in rows), check=args.check)


def _seconds(rounds: int, sides: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in sides}
    for name in interleaved(list(sides), rounds):
        found[name].append(sides[name]())
        console.say(f"round {len(found[name])}/{rounds}  {name:<12} {found[name][-1]:.2f} s")
    return found


def _build(scratch: Path, *flags: str, shares: list[float] | None = None) -> float:
    """Return the seconds of a build of minilm from scratch; the trial load's seconds over the rest are added to `shares`."""
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
        x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", w]) for n, w in (("x", WIDTH), ("y", DEPTH)))
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(weights, "w")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        onnx.save(model, scratch / f"m{number}.onnx")
        config += [f"  m{number}:", f"    source: m{number}.onnx", "    batch: {max: 4}", "    samples: {golden: 4}"]
    (scratch / "config.yaml").write_text("\n".join(config) + "\n")
    _run("--config", str(scratch / "config.yaml"), "--no-trial-load")
    return scratch / "model_repository"


def _run(*words: str) -> None:
    done = subprocess.run([sys.executable, "builders/build_all.py", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        why = (done.stdout + done.stderr)[-1500:]
        raise MachineError(Fault("a build to be measured failed", why=why, fix="see its output", check=" ".join(words)))


class Starts:
    """Server starts on one repository, in seconds: without hash check, with the hashes of the start before, with none cached."""

    def __init__(self, repository: Path, scratch: Path) -> None:
        self._repository, self._folder = repository, scratch / "server"
        self._folder.mkdir()
        self.uncached()

    def trusted(self) -> float:
        return self._start("--trust-repository")

    def cached(self) -> float:
        return self._start()

    def uncached(self) -> float:
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
        ratio_row("build of minilm, with the trial load / without", ratios, BUILD_RATIO, sign="≤", detail=detail),
        ratio_row("trial load of minilm / the rest of the build", shares, None),
    ]


def _start_rows(starts: dict[str, list[float]]) -> list[dict[str, Any]]:
    rows = []
    for name, target in (("cached", START_S), ("uncached", None)):
        longer = [b - a for a, b in zip(starts["trusted"], starts[name], strict=True)]
        detail = f"{statistics.median(starts[name]):.2f} and {statistics.median(starts['trusted']):.2f} s"
        what = f"start with {MODELS} models, hashes {name} − trusted, s"
        rows.append(ratio_row(what, longer, target, sign="≤", detail=detail))
    return rows


if __name__ == "__main__":
    console.run(main)
