"""python -m loadtest sweep, and the statistics behind its verdict."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from measure import statistics
from measure.operating_point import setting as serving_setting
from measure.operating_point.setting import ServingSetting
from measure.operating_point.usage import Meter, first_gpu, processes
from measure.record.recorder import Recorder
from planwright.server_info import ServerInfo
from tests._project import ROOT, Project
from tests.measure._under_way import SCHEMA, interrupted


def sweep(*flags: str, server_file: Path | None = None) -> subprocess.CompletedProcess[str]:
    return loadtest("sweep", *flags, server_file=server_file)


def loadtest(*words: str, server_file: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PLANWRIGHT_SERVER_FILE": str(server_file)} if server_file else {})}
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def rolled_back(built: Project, folder: Path) -> Path:
    """Return a copy of the repository with a newer version of digits that is not served, as a rollback leaves it."""
    repository = folder / "model_repository"
    shutil.copytree(built.repository, repository)
    newer = shutil.copytree(repository / "digits/1", repository / "digits/2")
    build = json.loads((newer / "build.json").read_text())
    (newer / "build.json").write_text(json.dumps({**build, "version": 2, "weights": "random", "precision": "int8"}))
    return repository


def places(built: Project, folder: Path) -> list[str]:
    return ["--repository", str(built.repository), "--runs", str(folder / "runs")]


SHORT = ("--duration-s", "1", "--warmup-s", "1", "--repeats", "2", "--users", "4")


@pytest.mark.parametrize("command", ["sweep", "tune"])
def test_after_a_rollback_the_served_version_is_reported(command: str, built: Project, tmp_path: Path) -> None:
    flags = {
        "sweep": ["--instances", "1", *SHORT],
        "tune": ["--slo", "p99<10s", "--points", "3", "--minutes", "1", "--duration-s", "1", "--warmup-s", "0.5"],
    }
    where = ["--repository", str(rolled_back(built, tmp_path)), "--runs", str(tmp_path / "runs"), "--json"]
    done = loadtest(command, "digits", *flags[command], *where)
    report = json.loads(done.stdout)
    assert (report["version"], report["weights"], report["precision"]) == ("1", "real", "fp32")


def test_a_sweep_measures_each_number_of_instances_and_leaves_the_repository_alone(
    built: Project, tmp_path: Path
) -> None:
    before = built.state()
    done = sweep("digits", "--instances", "1,2", *SHORT, *places(built, tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, SCHEMA)
    assert [point["instances"] for point in report["points"]] == [1, 2]
    assert all(len(point["throughput_per_s"]["values"]) == 2 for point in report["points"])
    assert all(point["throughput_per_s"]["mean"] > 0 for point in report["points"])
    assert "<svg" in Path(report["report"]).read_text()
    assert built.state() == before
    progress = [line for line in done.stderr.splitlines() if " left" in line]
    assert [line.split()[0] for line in progress] == ["1/4", "2/4", "3/4", "4/4"]


def test_a_grid_is_set_in_tritons_fields_and_its_cost_is_reported(built: Project, tmp_path: Path) -> None:
    done = sweep(
        "digits", "--instances", "1", "--max-batch", "2,8", "--queue-delay-us", "off,1000", "--preferred", "none;2,4", *SHORT[:4],
        "--repeats", "1", "--users", "8", *places(built, tmp_path), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, SCHEMA)
    settings = [(p["setting"]["max_batch_size"], p["setting"]["dynamic_batching"]) for p in report["points"]]
    assert settings == [
        (2, None),
        (2, {"max_queue_delay_microseconds": 1000}),
        (8, None),
        (8, {"max_queue_delay_microseconds": 1000}),
        (8, {"preferred_batch_size": [2, 4], "max_queue_delay_microseconds": 1000}),
    ]
    for point in report["points"]:
        sizes = {row["size"] for row in point["batches"]}
        assert max(sizes) <= point["setting"]["max_batch_size"]
        assert (sizes == {1}) == (point["setting"]["dynamic_batching"] is None)
        assert point["server_cores"] > 0
        assert point["memory_bytes"] > 20e6
        assert point["off_best"] is None
        assert point["comparison"] in ("", "one repeat: no verdict")
    assert any("no optimization profile" in why for why in report["skipped"])
    if first_gpu() is None:
        assert any("GPU power" in why for why in report["skipped"])
    page = Path(report["report"]).read_text()
    assert "Executed batch sizes" in page
    assert page.count("<svg") == 3


def test_ctrl_c_leaves_what_was_measured_and_the_servers_config_as_it_was(built: Project, tmp_path: Path) -> None:
    words = (
        "sweep",
        "digits",
        "--instances",
        "2,3",
        "--queue-delay-us",
        "9",
        "--duration-s",
        "1",
        "--warmup-s",
        "1",
        "--repeats",
        "99",
    )
    assert len(interrupted(built, tmp_path, words, after="2/", wait_s=2.0)["points"]) == 2


def test_a_server_that_does_not_allow_changes_is_exit_3(served: ServerInfo, built: Project, tmp_path: Path) -> None:  # fmt: skip
    done = sweep("digits", "--server", f"http://{served.http_url}", *places(built, tmp_path), server_file=tmp_path / "none.json")  # fmt: skip
    assert done.returncode == 3
    assert "fix    start it with --model-control-mode=explicit" in done.stderr or "requires an admin key" in done.stderr
    served.write(tmp_path / "server.json")
    done = sweep("digits", "--server", f"http://{served.http_url}", *places(built, tmp_path), server_file=tmp_path / "server.json")  # fmt: skip
    assert done.returncode == 3
    assert "it runs in mode none" in done.stderr
    assert not list(tmp_path.glob("runs/*"))


def test_a_server_that_is_not_there_is_exit_3(built: Project, tmp_path: Path) -> None:
    done = sweep("digits", "--server", "http://127.0.0.1:9", *places(built, tmp_path))
    assert done.returncode == 3
    assert "the server does not answer" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["digits", "--instances", "0,1"], "--instances: '0,1'"),
        (["digits", "--max-batch", "16"], "above the published max_batch_size 8"),
        (["digits", "--max-batch", "2,4", "--batch", "4"], "--batch 4 is above the max_batch_size 2"),
        (["digits", "--queue-delay-us", "soon"], "--queue-delay-us off,0,500,2000"),
        (["digits", "--preferred", "4,,8"], '--preferred "none;4,8"'),
        (["digits", "--cuda-graphs", "off,on"], "has no CUDA graphs"),
        (["digits", "--duration-s", "0", "--repeats", "0"], "--repeats: 0"),
        (["digits", "--users", "0"], "--users: 0"),
        (["digitz"], "did you mean 'digits'?"),
        ([], "the following arguments are required"),
    ],
)
def test_bad_usage_is_reported(built: Project, flags: list[str], words: str) -> None:
    done = sweep(*flags, *(["--repository", str(built.repository)] if flags else []))
    assert done.returncode == 2
    assert words in done.stderr


def test_points_off_the_profiles_opt_are_flagged() -> None:
    spec = {"bounds": [1, 16, 32], "compile": {"profiles": None}}
    build = {"target": "tensorrt", "stages": {"compile": {"spec": spec}}}
    assert serving_setting.best_batches(build) == ([16], "")
    spec["compile"] = {
        "profiles": [
            {"x": {"min": [1, 3], "opt": [4, 3], "max": [8, 3]}},
            {"x": {"min": [1, 3], "opt": [8, 3], "max": [8, 3]}},
        ]
    }
    assert serving_setting.best_batches(build) == ([4, 8], "")
    assert serving_setting.best_batches({"target": "onnxruntime"})[0] == []
    rows = [{"size": 4, "count": 30}, {"size": 5, "count": 10}]
    assert serving_setting.off_best(rows, [4, 8]) == 0.25
    assert serving_setting.off_best(rows, []) is None


def test_a_setting_survives_the_round_trip_to_the_server() -> None:
    base = {
        "max_batch_size": 32, "instance_group": [{"name": "m_0", "count": 1, "kind": "KIND_CPU"}], "optimization": {"priority": "PRIORITY_DEFAULT"},
        "dynamic_batching": {"preferred_batch_size": [32], "max_queue_delay_microseconds": 500, "preserve_ordering": True},
    }  # fmt: skip
    assert serving_setting.setting_of(base) == ServingSetting(1, 32, 500), (
        "a server writes [max_batch_size] where nothing is preferred"
    )
    assert serving_setting.configured(base, ServingSetting(1, 32, 500)) == {
        **base,
        "dynamic_batching": {"max_queue_delay_microseconds": 500, "preserve_ordering": True},
    }
    for setting in (ServingSetting(3, 8, None), ServingSetting(1, 32, 0, (4, 8)), ServingSetting(2, 16, 9, (), True)):
        config = serving_setting.configured(base, setting)
        assert serving_setting.setting_of(config) == setting
        assert config["instance_group"][0]["kind"] == "KIND_CPU"
    assert "dynamic_batching" not in serving_setting.untuned(base)


def test_the_usage_of_a_busy_child_is_measured() -> None:
    busy = [
        sys.executable,
        "-c",
        "import time\nblock = bytearray(60_000_000)\nend = time.process_time() + 1\nwhile time.process_time() < end: pass\nprint()\ntime.sleep(60)",
    ]
    process = subprocess.Popen(["sh", "-c", '"$@"; true', "sh", *busy], stdout=subprocess.PIPE)
    try:
        meter = Meter(process.pid, None)
        meter.read()
        assert process.stdout is not None
        process.stdout.readline()
        meter.read()
        usage = meter.usage(0, 1)
    finally:
        for each in processes(process.pid):
            each.kill()
        process.communicate()
    assert usage.cpu_s is not None
    assert usage.memory_bytes is not None
    assert 0.5 < usage.cpu_s < 10, "the work was done by a child of the process"
    assert 60e6 < usage.memory_bytes < 300e6
    assert processes(process.pid) == []
    assert Meter(0, None).usage(0, 1).cpu_s is None


@pytest.mark.parametrize(
    ("probability", "freedom", "value"),
    [
        (0.95, 1, 12.7062),
        (0.95, 4, 2.7764),
        (0.95, 120, 1.9799),
        (0.99, 2, 9.9248),
        (0.99, 30, 2.75),
        (0.999, 10, 4.5869),
    ],
)
def test_quantiles_are_those_of_the_tables(probability: float, freedom: int, value: float) -> None:
    assert statistics.t_quantile(probability, freedom) == pytest.approx(value, abs=6e-5)


def test_a_setting_seldom_gains_on_itself_and_a_real_gain_is_found() -> None:
    dice = random.Random(5)
    same = [
        statistics.compare([dice.gauss(100, 5) for _ in range(4)], [dice.gauss(100, 5) for _ in range(4)])
        for _ in range(300)
    ]
    assert sum(verdict.startswith(("gain", "loss")) for verdict in same) <= 9, "99% confidence: about 3 of 300"
    assert sum(verdict.startswith("cannot say") for verdict in same) <= 30, "a scatter of 5% seldom hides a quarter"
    assert statistics.compare([100.0, 101, 99, 100], [130.0, 131, 129, 132]).startswith("gain +30%")
    assert statistics.compare([100.0, 101, 99, 100], [70.0, 71, 69, 72]).startswith("loss")


def test_an_interval_covers_the_mean_as_often_as_stated() -> None:
    dice = random.Random(7)
    held = 0
    for _ in range(400):
        found = statistics.interval([dice.gauss(100, 5) for _ in range(4)])
        held += abs(float(str(found["mean"])) - 100) <= float(str(found["half_width"]))
    assert 365 <= held <= 395, "95% of 400 are 380"
    assert statistics.interval([3.0])["half_width"] == 0.0


def test_too_little_is_no_verdict() -> None:
    assert statistics.compare([1.0], [2.0, 3.0]) == "one repeat: no verdict"
    assert statistics.compare([2.0, 2.0], [3.0, 3.0]) == "no verdict"
    assert statistics.compare([0.0, 0.0], [3.0, 4.0]) == "no verdict"
    assert "-100%" in statistics.compare([100.0, 300.0], [100.0, 200.0]), "no rate falls by more than all of it"


def test_ratios_of_pairs_and_a_pooled_scatter() -> None:
    found = statistics.ratio([(100.0, 98.0), (200.0, 198.0), (50.0, 48.5), (120.0, 118.0)])
    assert found.low < 0.98 - 1 < found.high
    assert found.high < 0
    assert statistics.ratio([(1.0, 2.0)]).high == float("inf")
    pooled = statistics.scatter([[100.0, 110.0], [10.0, 11.0], [5.0]])
    assert pooled.freedom == 6
    assert 0.03 < pooled.share < 0.07
    assert pooled.reach([2, 2]) < pooled.reach([1, 2]) < pooled.reach([1, 1])


def test_tracks_of_two_processes_add_up() -> None:
    one, two, both = Recorder(), Recorder(), Recorder()
    for recorder in (one, two, both):
        recorder.start(0)
    for value in (100.0, 2000.0, 35.0):
        one.answered(("m", "http"), one.started, value)
        if value == 35.0:
            two.failed(("m", "http"), two.started, value * 3, "lost")
        else:
            two.answered(("m", "http"), two.started, value * 3)
    both.merge(one.drain())
    both.merge(two.drain())
    track = both.tracks["m", "http"]
    assert (track.requests, track.failures, track.latencies.get_total_count()) == (6, 1, 5)
    assert track.latencies.get_max_value() >= 6000
    assert not one.tracks
