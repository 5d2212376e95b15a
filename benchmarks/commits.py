"""Whether a change cost speed: the load client and a build that has nothing to do, at an older commit and in this checkout.

In      ``--base COMMIT``.
Out     a table and benchmarks/results/commits.json: each figure of this checkout over that of the base.

Both sides are measured in every round, in an order that alternates: requests per second of client CPU over HTTP and gRPC against one
server, and the seconds of a build that finds everything current.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._parts.common import ROOT, Inputs, parser, ratio_row, scratch_folder, serve, show_ratios, stamp
from measure.operating_point import locust_process
from planwright import console

CONFIG = "version: 1\nmodels:\n  digits: {source: zoo/digits, batch: {min: 1, opt: 4, max: 8}}\n"
USERS = 8
HTTP, GRPC = "http: requests per client core second", "grpc: requests per client core second"
BUILD = "a build with nothing to do: seconds"


def main(argv: Sequence[str]) -> int:
    p = parser(__doc__, check="", repository=False)
    p.add_argument("--base", required=True, metavar="COMMIT", help="the older side")
    p.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    p.add_argument("--seconds", type=float, default=6.0, help="per load test (default: %(default)s)")
    args = p.parse_args(argv)
    inputs = Inputs()
    inputs.program("git", "install git")
    inputs.require()
    with scratch_folder() as scratch, _checkout(args.base, scratch / "base") as base:
        trees = {"base": base, "here": ROOT}
        projects = {side: _project(scratch / f"project-{side}", tree) for side, tree in trees.items()}
        with serve(projects["here"] / "model_repository", file=scratch / "server.json"):
            rounds = [_round(trees, projects, scratch, args.seconds, flip=turn % 2 > 0) for turn in range(args.rounds)]
    rows = [ratio_row(name, [r["here"][name] / r["base"][name] for r in rounds], None) for name in (HTTP, GRPC, BUILD)]
    show_ratios(f"this checkout over {args.base}", rows)
    value = {
        **stamp(),
        "base": _git("rev-parse", args.base),
        "here": _git("rev-parse", "HEAD"),
        "rounds": rounds,
        "rows": rows,
    }
    return inputs.conclude("commits", value, met=True, check=False)


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def _checkout(commit: str, tree: Path) -> Iterator[Path]:
    """Check a commit out beside this one, with this one's server."""
    _git("worktree", "add", "--detach", str(tree), commit)
    try:
        for name in (".venv-server", ".tritonserver"):
            (tree / name).symlink_to(ROOT / name)
        yield tree
    finally:
        _git("worktree", "remove", "--force", str(tree))


def _project(folder: Path, tree: Path) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    _build(folder, tree)
    return folder


def _build(project: Path, tree: Path) -> float:
    began_s = time.monotonic()
    command = [sys.executable, "builders/build_all.py", "--config", str(project / "config.yaml")]
    subprocess.run(command, cwd=tree, capture_output=True, check=True)
    return time.monotonic() - began_s


def _round(
    trees: dict[str, Path], projects: dict[str, Path], scratch: Path, seconds: float, *, flip: bool
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for side in sorted(trees, reverse=flip):
        http, grpc = (_load(trees[side], scratch, tag, seconds) for tag in ("http", "grpc"))
        found[side] = {HTTP: http, GRPC: grpc, BUILD: _build(projects[side], trees[side])}
    console.say(json.dumps(found))
    return found


def _load(tree: Path, scratch: Path, tag: str, seconds: float) -> float:
    """Return requests per second of client CPU, with the locust scenarios of `tree`."""
    runs = Path(tempfile.mkdtemp(dir=scratch))
    repository = scratch / "project-here" / "model_repository"
    environment = locust_process.environment("digits", runs, repository, scratch / "server.json")
    command = locust_process.command(USERS, tag, "-t", f"{seconds:.0f}s")
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=True)
    report = locust_process.report(runs, done.stdout + done.stderr)
    return float(sum(row["requests"] for row in report["models"]) / report["client"]["cpu_s"])


if __name__ == "__main__":
    console.run(main)
