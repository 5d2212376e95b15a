"""``make quick`` and ``make lint``: lint, types, and the tests that need no server, no build and no network.

In      nothing, or ``lint`` for lint and types alone.
Out     a line per check, the whole output of each that failed; exit code 1 where one did.

Two lanes run side by side, for two cores. tests/conftest.py marks the tests, so ``pytest -m quick`` runs them too.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from planwright import console
from planwright.errors import EXIT_FAILED, EXIT_OK

ROOT = Path(__file__).resolve().parents[1]
# Files whose tests are quick, apart from those that need one of the fixtures below.
FILES = (
    "tests/benchmarks/test_records.py",
    "tests/builders/test_doctor.py",
    "tests/clients/test_inputs.py",
    "tests/clients/test_request.py",
    "tests/clients/test_sequence.py",
    "tests/measure/test_noise_rule.py",
    "tests/measure/test_profile.py",
    "tests/measure/test_records.py",
    "tests/measure/test_scheduler.py",
    "tests/measure/test_tune.py",
    "tests/measure/test_tune_search.py",
    "tests/measure/test_tune_write.py",
    "tests/planwright",
    "tests/serving/test_preflight.py",
    "tests/serving/test_trust.py",
    "tests/tensorrt/test_architectures.py",
    "tests/tensorrt/test_backend_checks.py",
    "tests/tensorrt/test_fp8.py",
    "tests/tensorrt/test_graphs.py",
    "tests/tensorrt/test_native.py",
    "tests/tensorrt/test_plan_and_config.py",
    "tests/tensorrt/test_units.py",
)
TREE_FILES = (
    "tests/ux/test_architecture.py",
    "tests/ux/test_english.py",
    "tests/ux/test_house_rules.py",
    "tests/ux/test_imports.py",
    "tests/ux/test_progress.py",
)
BUILD_OR_SERVER = {"built", "served", "server", "empty", "start", "screened"}

LINT = {
    "ruff": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "mypy scripts": ["mypy", "deploy", "docs"],
}
LANES: tuple[dict[str, list[str]], ...] = (
    {**LINT, "tests of the tree": ["pytest", "-q", "-m", "quick", *TREE_FILES]},
    {"unit tests": ["pytest", "-q", "-m", "quick", *FILES]},
)


def is_quick(path: Path, fixtures: Collection[str]) -> bool:
    """Say whether a test of this file with these fixtures belongs to ``make quick``."""
    listed = any(path.is_relative_to(ROOT / place) for place in (*FILES, *TREE_FILES))
    return listed and BUILD_OR_SERVER.isdisjoint(fixtures)


def main(argv: Sequence[str]) -> int:
    lanes: Iterable[dict[str, list[str]]] = [LINT] if "lint" in argv else LANES
    start = time.monotonic()
    with ThreadPoolExecutor() as pool:
        results = [result for lane in pool.map(_run_lane, lanes) for result in lane]
    passed = all(results)
    console.say(f"{'passed' if passed else 'failed'} in {time.monotonic() - start:.0f} s")
    return EXIT_OK if passed else EXIT_FAILED


def _run_lane(lane: dict[str, list[str]]) -> list[bool]:
    return [_run(name, command) for name, command in lane.items()]


def _run(name: str, command: list[str]) -> bool:
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    passed = done.returncode == 0
    last = (done.stdout.strip().splitlines() or [""])[-1]
    console.say(
        f"{'ok' if passed else 'FAIL':4}  {name:18} {time.monotonic() - start:5.1f} s  {last if passed else ''}"
    )
    if not passed:
        console.say(done.stdout + done.stderr)
    return passed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
