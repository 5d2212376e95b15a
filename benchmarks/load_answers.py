"""Is a server that swaps answers caught, and a healthy one never accused.

In      the published repository, as ``make demo`` serves it.
Out     a table and benchmarks/results/load_answers.json: runs of the demo's length with the demo's users on the healthy server, and on one
        whose digits reverses the rows of each batch; ``--check`` exits 1 where a healthy run fails or a swapped one does not.

Reversed rows are right while a request is alone in its batch: only as the server merges two does each get the other's answer. Nothing
is told to the load test: it checks the share of answers that it checks by itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._parts.common import Inputs, serve, stamp  # noqa: E402
from deploy.demo import LOAD  # noqa: E402
from measure.operating_point import locust_process  # noqa: E402
from planwright import console  # noqa: E402
from planwright.files import sha256, write_json  # noqa: E402
from planwright.integrity import OWN_HASH, record_hash  # noqa: E402

MODEL = "digits"


def main(argv: Sequence[str]) -> int:
    """Run healthy and swapped loads."""
    p = console.Parser(prog="benchmarks/load_answers.py", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--healthy", type=int, default=50, help="runs (default: %(default)s)")
    p.add_argument("--swapped", type=int, default=10, help="runs (default: %(default)s)")
    p.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    p.add_argument("--check", action="store_true", help="exit 1 where one is accused or not caught")
    args = p.parse_args(argv)
    inputs = Inputs()
    inputs.models(args.repository, MODEL)
    inputs.require()
    with tempfile.TemporaryDirectory(prefix="planwright-bench-") as folder:
        swapped = Path(folder) / "swapped"
        shutil.copytree(args.repository, swapped)
        swap_rows(swapped / MODEL)
        runs = {"healthy": _runs(args.repository, args.healthy), "swapped": _runs(swapped, args.swapped)}
    figures = {
        "accused": sum(row["failures"] + row["wrong"] > 0 for row in runs["healthy"]),
        "caught": sum(row["wrong"] > 0 for row in runs["swapped"]),
    }
    met = not figures["accused"] and figures["caught"] == args.swapped
    console.say(
        f"{'met' if met else 'MISSED'}  {figures['accused']} of {args.healthy} healthy runs accused, {figures['caught']} of {args.swapped} swapped runs caught"
    )
    value = {**stamp(), "load": LOAD, **figures, "met": met, "runs": runs}
    return inputs.conclude("load_answers", value, met=met, check=args.check)


def _runs(repository: Path, count: int) -> list[dict[str, Any]]:
    found = []
    with serve(repository) as server, tempfile.TemporaryDirectory(prefix="planwright-bench-") as folder:
        server.write(Path(folder) / "server.json")
        for number in range(count):
            found.append(_run(Path(folder), repository))
            console.say(f"{number + 1}/{count}  {found[-1]}")
    return found


def _run(scratch: Path, repository: Path) -> dict[str, Any]:
    runs = Path(tempfile.mkdtemp(dir=scratch))
    environment = locust_process.environment("", runs, repository, scratch / "server.json")
    command = [sys.executable, "-m", "locust", "-f", locust_process.FILE, *LOAD]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    report = locust_process.report(runs, done.stdout + done.stderr)
    sums = {key: sum(row[key] for row in report["models"]) for key in ("requests", "failures", "checked", "wrong")}
    return {**sums, "verdict": report["verdict"]["status"]}


def swap_rows(model: Path) -> None:
    """Let the newest version of a published ONNX model reverse the rows of its batch, with the hash that its record needs."""
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
