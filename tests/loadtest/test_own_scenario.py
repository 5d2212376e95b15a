"""Scenarios that users add to ``loadtest/``: one run and one report whatever they bring, their own requests and checks, their mistakes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from planwright.server_info import ServerInfo
from tests._project import ROOT
from tests.measure.conftest import LoadRun, environment, finished

PAGE = ROOT / "docs" / "write-a-scenario.md"
HEAD = "import numpy as np\nfrom measure.load.user import Infer, task\n"
CHECK = "    def check(self, inputs, outputs):\n        return ''\n"
TASK = "    @task\n    def infer(self):\n        self.send()\n"
PICTURES = '        return [{"image": np.full((2, 8, 8), shade, np.uint8)} for shade in (0, 16)]\n'


def run(server: ServerInfo, scratch: Path, files: dict[str, str], *flags: str, **settings: str) -> LoadRun:
    """Run ``locust -f loadtest/`` with more files in a copy of that folder."""
    shutil.copytree(ROOT / "loadtest", scratch / "loadtest", ignore=shutil.ignore_patterns("__pycache__"))
    for room in ("clients", "measure", "planwright"):
        (scratch / room).symlink_to(ROOT / room)
    for name, text in files.items():
        (scratch / "loadtest" / name).write_text(text)
    command = [sys.executable, "-m", "locust", "-f", "loadtest/", "--headless", "--only-summary", "-t", "3s", *flags]
    settings = {"wait_s": "0.02", **settings}
    done = subprocess.run(
        command, cwd=scratch, env=environment(server, scratch, **settings), capture_output=True, text=True, timeout=120
    )
    return finished(done.returncode, done.stdout + done.stderr, scratch)


def blocks() -> list[str]:
    found = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(found) >= 2
    return found


def test_the_pages_own_code_runs_beside_ours_and_leaves_one_report(served: ServerInfo, tmp_path: Path) -> None:
    files = {f"block_{index}.py": text for index, text in enumerate(blocks())}
    done = run(served, tmp_path, files, "-u", "6", "-r", "6", check="1")
    assert done.code == 0, done.text
    assert len(list((tmp_path / "runs").glob("*"))) == 1, "one run, one report"
    rows = {row["protocol"]: row for row in done.report["models"]}
    assert rows["http"]["checked"] > 0
    assert rows["grpc"]["checked"] > 0
    assert not any(row["wrong"] for row in rows.values())


def test_the_example_is_what_the_page_copies(served: ServerInfo, tmp_path: Path) -> None:
    assert "cp loadtest/_example.py loadtest/equal_rows.py" in PAGE.read_text()
    example = (ROOT / "loadtest" / "_example.py").read_text()
    done = run(served, tmp_path, {"equal_rows.py": example}, "EqualRows", "-u", "2", warmup_s="0")
    assert done.code == 0, done.text
    (row,) = done.report["models"]
    assert (row["protocol"], row["model"]) == ("grpc", "digits")
    assert row["throughput_per_s"] * done.report["window_s"] == pytest.approx(4 * row["requests"], rel=0.1), (
        "four pictures each"
    )
    assert row["checked"] > 0


def test_a_second_file_that_extends_ours_leaves_one_report(served: ServerInfo, tmp_path: Path) -> None:
    """Locust imports each file under its own name, so what a file of ours holds exists twice where another imports it."""
    files = {
        "a_first.py": f"from loadtest.scenarios import Infer, task\nclass Mine(Infer):\n    transport = 'grpc'\n{TASK}"
    }
    done = run(served, tmp_path, files, "-u", "4", "-r", "4")
    assert done.code == 0, done.text
    assert len(list((tmp_path / "runs").glob("*"))) == 1
    assert all(row["requests"] for row in done.report["models"])


def test_an_own_check_decides_what_is_wrong(served: ServerInfo, tmp_path: Path) -> None:
    check = (
        "    def check(self, inputs, outputs):\n        return '' if inputs['image'].max() == 0 else 'the dark one'\n"
    )
    text = f"{HEAD}class Mine(Infer):\n    def inputs(self, model):\n{PICTURES}{check}{TASK}"
    done = run(served, tmp_path, {"mine.py": text}, "Mine", "-u", "2", check="1")
    assert done.code == 1, done.text
    (row,) = done.report["models"]
    assert 0 < row["wrong"] < row["checked"], "only answers to the second picture are wrong"
    assert "the dark one" in str(row["errors"])


def test_classes_choose_among_the_runs_models_in_an_open_loop(served: ServerInfo, tmp_path: Path) -> None:
    text = f"{HEAD}class Mine(Infer):\n    models = ('digits',)\n{TASK}"
    settings = {"arrivals": "constant", "rate": "40:2s", "warmup_s": "0", "wait_s": ""}
    done = run(served, tmp_path, {"mine.py": text}, "Mine", "-u", "2", "-t", "20s", **settings)
    assert done.code == 0, done.text
    assert done.report["load"]["due"] == sum(row["requests"] for row in done.report["models"]) == 80


@pytest.mark.parametrize(
    ("body", "line", "said"),
    [
        ("    models = ('digit', 'minilm')\n", 3, "'minilm'"),
        ("    models = 'digits'\n", 3, 'models = ("digits",)'),
        ("    transport = 'htpp'\n", 3, "did you mean 'http'"),
        ("    def inputs(self, model):\n        return 1 / 0\n" + CHECK, 5, "ZeroDivisionError"),
        ("    def inputs(self, model):\n        return []\n" + CHECK, 4, "no requests"),
        ("    def inputs(self, model):\n        return [{'image': np.zeros((1, 9, 9))}]\n" + CHECK, 4, "[1, 9, 9]"),
        (f"    def inputs(self, model):\n{PICTURES}", 4, "check"),
        (f"    def inputs(self, model):\n{PICTURES}    def check(self, inputs, outputs):\n        return outputs['score']\n", 7, "KeyError"),
        (f"    def inputs(self, model):\n{PICTURES}    def check(self, inputs, outputs):\n        return True\n", 6, "bool"),
        ("    def inputs(self, model):\n        return np.zeros((1, 8, 8), np.uint8)\n" + CHECK, 4, "ndarray"),
        ("    models = (3,)\n", 3, "(3,)"),
        ("    def on_start(self):\n        pass\n", 4, "super().on_start()"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_its_file_and_line(
    served: ServerInfo, tmp_path: Path, body: str, line: int, said: str
) -> None:
    done = run(served, tmp_path, {"mine.py": f"{HEAD}class Mine(Infer):\n{body}{TASK}"}, "Mine", "-u", "2", check="1")
    assert done.code == 2, done.text
    assert said in done.text
    assert f"mine.py:{line}" in done.text


def test_a_class_without_a_task_is_refused(served: ServerInfo, tmp_path: Path) -> None:
    done = run(served, tmp_path, {"mine.py": f"{HEAD}class Mine(Infer):\n    transport = 'grpc'\n"}, "Mine", "-u", "2")
    assert done.code == 2, done.text
    assert "Mine has no task" in done.text
    assert "mine.py:3" in done.text


def test_an_own_check_sees_golden_samples_too(served: ServerInfo, tmp_path: Path) -> None:
    check = "    def check(self, inputs, outputs):\n        return '' if len(outputs['scores']) == 2 else 'one row'\n"
    done = run(served, tmp_path, {"mine.py": f"{HEAD}class Mine(Infer):\n{check}{TASK}"}, "Mine", "-u", "2", check="1")
    assert done.code == 1, done.text
    (row,) = done.report["models"]
    assert row["wrong"] == row["checked"] > 0
    assert "one row" in str(row["errors"])


def test_a_mistake_in_a_worker_ends_the_whole_run(served: ServerInfo, tmp_path: Path) -> None:
    check = "    def check(self, inputs, outputs):\n        return outputs['score']\n"
    text = f"{HEAD}class Mine(Infer):\n    def inputs(self, model):\n{PICTURES}{check}{TASK}"
    done = run(served, tmp_path, {"mine.py": text}, "Mine", "-u", "2", "-t", "30s", "--processes", "2", check="1")
    assert done.code == 2, done.text
    assert "mine.py:7" in done.text
    assert done.report["verdict"]["status"] == "fail"
    assert len(list((tmp_path / "runs").glob("*"))) == 1
