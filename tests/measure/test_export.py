"""python -m loadtest export: perf_analyzer's own columns, filled from our reports."""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from measure.report import perf_analyzer_csv
from planwright.server_info import ServerInfo
from tests._project import ROOT
from tests.measure._made_runs import report, saved
from tests.measure.conftest import LoadRun

# the newest wheel whose perf_analyzer runs on glibc 2.35, and of the embedded server's own release
WHEEL = "tritonclient==2.51.0"
LIBRARIES = {"libb64.so.0d": "libb64-*", "libcudart.so.12": "libcudart-*"}


def export(*words: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "export", *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_real_run_fills_every_column(run: LoadRun, tmp_path: Path) -> None:
    assert run.folder is not None
    done = export(run.folder, "--csv", tmp_path / "run.csv", "--model", "digits", "--protocol", "grpc", "--verbose-csv")
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path / "run.csv")
    ours = next(found for found in run.report["models"] if found["protocol"] == "grpc")
    assert [row[f"{name} latency"] for name in ("p50", "p90", "p95", "p99")] == [
        str(int(ours["latency_us"][name])) for name in ("p50", "p90", "p95", "p99")
    ]
    assert float(row["Inferences/Second"]) == pytest.approx(ours["throughput_per_s"], rel=1e-5)
    assert int(row["Server Compute Infer"]) == int(run.report["server"]["digits"]["mean_compute_infer_us"])
    assert "first column" in done.stderr, "two protocols share the users"


def test_the_parts_add_up_to_the_mean_latency(tmp_path: Path) -> None:
    value = report(1, seconds=5)
    export(saved(value, tmp_path), "--csv", tmp_path / "a.csv", "--verbose-csv")
    (row,) = rows(tmp_path / "a.csv")
    parts = [int(row[name]) for name in perf_analyzer_csv.COLUMNS[1:8]]
    assert sum(parts) == pytest.approx(value["models"][0]["latency_us"]["mean"], abs=len(parts))
    assert row["Concurrency"] == "8"
    assert row["Avg latency"] == row["response wait"]


def test_several_runs_are_rows_in_the_order_of_their_throughput(tmp_path: Path) -> None:
    runs = [saved(report(seed, seconds=5, users=users), tmp_path) for seed, users in ((1, 8), (2, 2), (3, 4))]
    done = export(*runs, "--csv", tmp_path / "a.csv", "--json")
    assert [row["Concurrency"] for row in rows(tmp_path / "a.csv")] == ["2", "4", "8"]
    assert json.loads(done.stdout)["rows"] == rows(tmp_path / "a.csv")


def test_an_open_loop_has_a_request_rate(tmp_path: Path) -> None:
    value = {
        **report(1, seconds=5),
        "load": {"arrivals": "poisson", "rate": "250", "scenario": "", "asked_per_s": 250.0},
    }
    export(saved(value, tmp_path), "--csv", tmp_path / "a.csv")
    (row,) = rows(tmp_path / "a.csv")
    assert next(iter(row.items())) == ("Request Rate", "250")


def mixed() -> dict[str, Any]:
    value = report(1, seconds=5)
    return {**value, "models": [value["models"][0], {**value["models"][0], "protocol": "http"}]}


@pytest.mark.parametrize(
    ("value", "flags", "text"),
    [
        (mixed(), [], "--model digits --protocol http"),
        (mixed(), ["--model", "digitz", "--protocol", "grpc"], "did you mean '--model digits --protocol grpc'?"),
        ({**report(1, seconds=2), "kind": "sweep"}, [], "no place for the settings of a sweep"),
        ({**report(1, seconds=2), "schema": 99}, [], "schema version"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, value: dict[str, Any], flags: list[str], text: str) -> None:
    done = export(saved(value, tmp_path), "--csv", tmp_path / "a.csv", *flags)
    assert done.returncode == 2
    assert text in done.stderr
    assert not (tmp_path / "a.csv").exists()


def test_runs_of_two_models_do_not_share_a_file(tmp_path: Path) -> None:
    runs = [saved(report(1, seconds=2), tmp_path), saved(report(2, seconds=2, model="minilm"), tmp_path)]
    done = export(*runs, "--csv", tmp_path / "a.csv")
    assert done.returncode == 2
    assert "digits over grpc by concurrency; minilm over grpc by concurrency" in done.stderr


@pytest.fixture(scope="module")
def perf_analyzer(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """NVIDIA's program and the environment that it runs in: the one that is installed, else out of its old wheel."""
    installed = shutil.which("perf_analyzer")
    if installed:
        return installed, dict(os.environ)
    libraries = ROOT / ".tritonserver/nvidia_pytriton.libs"
    if platform.machine() != "x86_64" or not libraries.is_dir():
        pytest.skip("no perf_analyzer for this machine")
    folder = tmp_path_factory.mktemp("perf_analyzer")
    fetch = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        WHEEL,
    ]
    fetched = subprocess.run(fetch, capture_output=True, text=True, timeout=300)
    if fetched.returncode:
        pytest.skip(f"{WHEEL} cannot be had: {fetched.stderr[-200:]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        (program,) = (name for name in wheel.namelist() if name.endswith("/perf_analyzer"))
        wheel.extract(program, folder)
    (folder / program).chmod(0o755)
    for name, pattern in LIBRARIES.items():
        (folder / name).symlink_to(next(libraries.glob(pattern)))
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    asked = subprocess.run([folder / program, "--version"], env=environment, capture_output=True, text=True, timeout=60)
    if asked.returncode:
        pytest.skip(f"it does not run here: {asked.stderr[-200:]}")
    return str(folder / program), environment


@pytest.mark.network
@pytest.mark.parametrize(
    ("flags", "header"),
    [
        (["--concurrency-range=1"], [perf_analyzer_csv.CLOSED, *perf_analyzer_csv.COLUMNS]),
        (
            ["--request-rate-range=20", "--verbose-csv"],
            [perf_analyzer_csv.OPEN, *perf_analyzer_csv.COLUMNS, *perf_analyzer_csv.VERBOSE],
        ),
    ],
)
def test_the_columns_are_those_of_perf_analyzer(
    perf_analyzer: tuple[str, dict[str, str]], served: ServerInfo, tmp_path: Path, flags: list[str], header: list[str]
) -> None:
    program, environment = perf_analyzer
    quick = ["--measurement-interval=400", "--stability-percentage=999", "--max-trials=3"]
    where = ["-m", "digits", "-i", "grpc", "-u", served.grpc_url, "-f", str(tmp_path / "theirs.csv")]
    done = subprocess.run(
        [program, *where, *quick, *flags], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (tmp_path / "theirs.csv").exists(), done.stdout + done.stderr
    assert (tmp_path / "theirs.csv").read_text().splitlines()[0].split(",") == header
