"""Kill builds at random moments and check what is published.

In      ``--builds N``, ``--seed``.
Out     a line per outcome and a record in benchmarks/results/; exit code 1 where a repository was ever anything but the
        old state or the complete new one, or a real server refused it.

Each round requests a new version of digits from exported files (a tolerance changes, so graph to publish run again), waits for
one of the stages to begin, a random moment more, and kills the build with SIGKILL; the stages take turns. Then the published files are
compared with their own hashes, and a running tritonserver in explicit mode loads the model and answers the golden samples.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._parts.common import ROOT, Inputs, parser, scratch_folder, serve, stamp
from builders.repository.versions import Published
from clients.addresses import Addresses
from clients.validate import validate
from planwright import console
from planwright.errors import Fault
from planwright.server_info import ServerInfo

CONFIG = """\
version: 1
models:
  digits:
    source: zoo/digits
    batch: {{min: 1, opt: 4, max: 8}}
    keep_versions: 3
    accept: {{scores: {{relative: {relative}}}}}
    serve: {{dynamic_batching: {{max_queue_delay_microseconds: {delay}}}}}
"""

# stage → what the build prints when the stage begins; publish begins when verify is done
MOMENTS = {
    "start": "",
    "graph": "graph ...",
    "compile": "compile ...",
    "verify": "verify ...",
    "publish": "verify done",
}
START_S, STAGE_S = 0.5, 0.04  # longest wait before the kill; a stage of digits takes 10 to 40 ms


def main(argv: Sequence[str]) -> int:
    p = parser(__doc__, check="", repository=False)
    p.add_argument("--builds", type=int, default=100, help="builds to kill (default: %(default)s)")
    p.add_argument("--seed", type=int, default=1, help="of the random moments (default: %(default)s)")
    p.add_argument("--no-record", action="store_true", help="leave the stored record unchanged")
    args = p.parse_args(argv)
    inputs = Inputs()
    with scratch_folder() as scratch:
        outcomes, faults = _rounds(scratch, args.builds, random.Random(args.seed))
    counts = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    console.say(f"{args.builds} builds killed: {counts}")
    for fault in faults:
        console.say(f"FAULT {fault}")
    if not outcomes:  # no build was killed, so nothing was measured
        inputs.missing.append(Fault("digits could not be built", fix="python builders/build_all.py digits"))
    if not args.no_record:
        figures = {"builds": args.builds, "seed": args.seed, "outcomes": dict(outcomes), "faults": faults}
        inputs.keep("kill_builds", {**stamp(), **figures})
    return 1 if faults else 0


def _rounds(folder: Path, builds: int, dice: random.Random) -> tuple[Counter[str], list[str]]:
    repository, outcomes, faults = folder / "model_repository", Counter[str](), list[str]()
    _configure(folder, 0)
    if not _build(folder):
        return outcomes, ["the first build failed"]
    with serve(repository, "--model-control-mode=explicit", "--load-model=*") as server:
        for number in range(1, builds + 1):
            before = _state(repository)
            _configure(folder, number)
            stage = list(MOMENTS)[number % len(MOMENTS)]
            killed = _kill_one(folder, stage, dice)
            fault = _fault(repository, before, server)
            outcomes[_outcome(stage, killed, new=_state(repository)[0] != before[0])] += 1
            if fault:
                faults.append(f"round {number} ({stage}): {fault}")
        _configure(folder, builds + 1)
        if not _build(folder):
            faults.append("the build after the last kill failed")
    return outcomes, faults


def _outcome(stage: str, killed: bool, *, new: bool) -> str:
    state = "the new version served" if new else "the old one served"
    return f"killed in {stage}, {state}" if killed else f"ended before the kill, {state}"


def _configure(folder: Path, number: int) -> None:
    text = CONFIG.format(relative=0.001 + number * 1e-6, delay=500 + number)
    (folder / "config.yaml").write_text(text)


def _command(folder: Path, *flags: str) -> list[str]:
    return [sys.executable, str(ROOT / "builders/build_all.py"), "--config", str(folder / "config.yaml"), *flags]


def _build(folder: Path, *flags: str) -> bool:
    return subprocess.run(_command(folder, *flags), cwd=folder, capture_output=True).returncode == 0


def _kill_one(folder: Path, stage: str, dice: random.Random) -> bool:
    """Start a build and kill it in `stage`; False where it had ended before the kill."""
    command = _command(folder, "--from", "graph", "--force")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, start_new_session=True
    )  # fmt: skip
    assert process.stdout is not None
    after_s = dice.uniform(0, START_S if stage == "start" else STAGE_S)
    if stage != "start":
        for line in process.stdout:
            if MOMENTS[stage] in " ".join(line.split()):
                break
    time.sleep(after_s)
    ended = process.poll() is not None
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return not ended


def _state(repository: Path) -> tuple[list[int], str]:
    published = Published(repository / "digits")
    return published.served(), (repository / "digits" / "config.pbtxt").read_text()


def _fault(repository: Path, before: tuple[list[int], str], server: ServerInfo) -> str:
    published, after = Published(repository / "digits"), _state(repository)
    new = max(before[0]) + 1
    allowed = [before[0], *([number] for number in range(new, new + 3))]  # an orphan's number is not used twice
    if after[0] not in allowed:
        return f"versions {before[0]} became {after[0]}"
    if after[0] == before[0] and after[1] != before[1]:
        return "config.pbtxt changed although no new version is served"
    if not all(published.whole(version) for version in after[0]):
        return f"version {after[0]} is incomplete"
    others = [entry.name for entry in repository.iterdir() if entry.name != "digits"]
    if others:
        return f"left behind in the repository: {others}"
    return _served(repository, server)


def _served(repository: Path, server: ServerInfo) -> str:
    from builders import reload
    from planwright.errors import PlanwrightError

    try:
        reload.load(server, "digits")
        rows = list(validate(repository, ["digits"], ["http"], Addresses(server.http_url, server.grpc_url)))
    except PlanwrightError as error:
        return str(error.faults[0])
    return "; ".join(json.dumps(row.as_dict()) for row in rows if row.verdict != "ok")


if __name__ == "__main__":
    console.run(main)
