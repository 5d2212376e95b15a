"""Whether a server that swaps answers is caught, and a healthy one never reported.

In      the published repository, as ``make demo`` serves it.
Out     a table and benchmarks/results/load_answers.json: runs of the demo's length with the demo's users on the healthy server, and on one
        whose digits reverses the rows of each batch; ``--check`` exits 1 where a healthy run fails or a swapped one does not.

Reversed rows are right while a request is alone in its batch: only when the server merges two requests does each get the other's
answer. The load test has no hint: it checks its usual share of answers.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._parts.common import Inputs, parser, scratch_folder, serve, stamp, verdict
from deploy.demo import LOAD
from measure.operating_point import locust_process
from planwright import console
from planwright.files import sha256, write_json
from planwright.integrity import OWN_HASH, record_hash

MODEL = "digits"


def main(argv: Sequence[str]) -> int:
    p = parser(__doc__, check="exit 1 where a healthy server is reported or a swapping one is missed")
    p.add_argument("--healthy", type=int, default=50, help="runs on the healthy server (default: %(default)s)")
    p.add_argument("--swapped", type=int, default=10, help="runs on the swapping server (default: %(default)s)")
    args = p.parse_args(argv)
    inputs = Inputs()
    inputs.models(args.repository, MODEL)
    inputs.require()
    with scratch_folder() as folder:
        swapped = folder / "swapped"
        shutil.copytree(args.repository, swapped)
        swap_rows(swapped / MODEL)
        runs = {"healthy": _runs(args.repository, args.healthy), "swapped": _runs(swapped, args.swapped)}
    accused = sum(row["failures"] + row["wrong"] > 0 for row in runs["healthy"])
    caught = sum(row["wrong"] > 0 for row in runs["swapped"])
    met = not accused and caught == args.swapped
    healthy = f"healthy runs reported: {accused} of {args.healthy}"
    console.say(f"{verdict(met)}  {healthy}; swapped runs caught: {caught} of {args.swapped}")
    value = {**stamp(), "load": LOAD, "accused": accused, "caught": caught, "met": met, "runs": runs}
    return inputs.conclude("load_answers", value, met=met, check=args.check)


def _runs(repository: Path, count: int) -> list[dict[str, Any]]:
    found = []
    with scratch_folder() as folder, serve(repository, file=folder / "server.json"):
        for number in range(count):
            found.append(_run(folder, repository))
            console.say(f"{number + 1}/{count}  {found[-1]}")
    return found


def _run(scratch: Path, repository: Path) -> dict[str, Any]:
    runs = Path(tempfile.mkdtemp(dir=scratch))
    environment = locust_process.environment("", runs, repository, scratch / "server.json")
    command = [sys.executable, "-m", "locust", "-f", locust_process.FILE, *LOAD]
    report = locust_process.run(command, environment, runs, 120)
    sums = {key: sum(row[key] for row in report["models"]) for key in ("requests", "failures", "checked", "wrong")}
    return {**sums, "verdict": report["verdict"]["status"]}


def swap_rows(model: Path) -> None:
    """Make the newest version of a published ONNX model reverse the rows of its batch, and update the hash in its record."""
    import onnx
    from onnx import helper

    folder = max(model.glob("*/model.onnx"), key=lambda path: int(path.parent.name)).parent
    graph = onnx.load(str(folder / "model.onnx"))
    output = graph.graph.node[-1].output[0]
    graph.graph.node[-1].output[0] = "straight"
    values = {"s": -1, "e": -(2**62), "a": 0, "t": -1}
    graph.graph.initializer.extend(helper.make_tensor(n, onnx.TensorProto.INT64, [1], [v]) for n, v in values.items())
    graph.graph.node.append(helper.make_node("Slice", ["straight", *values], [output]))
    onnx.save_model(graph, str(folder / "model.onnx"))
    build = json.loads((folder / "build.json").read_text())
    build["hashes"]["model.onnx"] = sha256(folder / "model.onnx")
    write_json(folder / "build.json", {**build, OWN_HASH: record_hash(build)})


if __name__ == "__main__":
    console.run(main)
