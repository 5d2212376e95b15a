"""validate says yes to what is right, and catches and names each planted fault."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clients import ModelInfo, published
from clients.addresses import Addresses
from clients.errors import ConnectionFailed
from clients.shared_memory.system import uses_shared_memory
from clients.validate import ValidationRow, validate
from planwright.golden import Golden, Group
from planwright.own_server import free_ports
from planwright.server_info import ServerInfo
from planwright.tensors import TensorSpec
from tests._server import ROOT, launch, running_server
from tests.clients import _golden
from tests.clients._command import clients, where
from tests.clients.test_answers import MODELS


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which everything but ``affine`` is wrong."""
    folder = tmp_path_factory.mktemp("faulty")
    for name in ("affine", "altered", "swapped", "damaged", "unjudged"):
        _golden.affine(folder, name)
    _golden.reverser(folder)
    _golden.affine(folder, "queued", "dynamic_batching { default_queue_policy { max_queue_size: 2 } }\n")
    golden = folder / "altered" / "1" / "golden.npz"
    _change(golden, lambda y: y * np.float32(1.01))
    _change(folder / "swapped" / "1" / "golden.npz", lambda y: y[[1, 0, *range(2, len(y))]])
    (folder / "damaged" / "1" / "golden.npz").write_bytes(golden.read_bytes()[:200])
    for name in ("altered", "swapped", "damaged"):
        _golden.record(folder / name / "1", _golden.recorded(folder / name / "1"))
    unjudged = folder / "unjudged" / "1"
    _golden.record(unjudged, {**_golden.recorded(unjudged), "tolerances": {}})
    return folder


@pytest.fixture(scope="module")
def closed(faulty: Path) -> Iterator[ServerInfo]:
    """A server of the faulty models that does not allow shared memory."""
    with running_server(faulty) as info:
        yield info


LOST = {  # which file a model has lost or damaged
    "bare": "build.json",
    "gone": "build.json",
    "blank": "config.pbtxt",
    "torn": "build.json",
    "listed": "build.json",
    "boxed": "build.json",
}


@pytest.fixture(scope="module")
def lossy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a whole model, one of another origin, and one for each way to lose what says it was published."""
    folder = tmp_path_factory.mktemp("lossy")
    versions = {name: _golden.sealed(folder, name) for name in ("whole", *LOST)}
    (versions["bare"] / "build.json").unlink()
    shutil.rmtree(versions["gone"])
    (folder / "blank" / "config.pbtxt").unlink()
    (versions["torn"] / "build.json").write_text("{")
    (versions["listed"] / "build.json").write_text("[1]")
    (versions["boxed"] / "build.json").unlink()
    (versions["boxed"] / "build.json").mkdir()
    (_golden.affine(folder, "stranger") / "build.json").unlink()
    return folder


@pytest.fixture(scope="module", params=[[], ["--trust-repository"]], ids=["refused", "trusted"])
def partial(request: pytest.FixtureRequest, lossy: Path) -> Iterator[ServerInfo]:
    """A server that refuses the damaged models, and one that serves what it can."""
    with running_server(lossy, *request.param) as info:
        yield info


def test_a_published_model_that_lost_a_file_fails_by_name_with_the_file(partial: ServerInfo, lossy: Path) -> None:
    done = clients("validate", "--transport", "http", "--batch", "1", "--json", *where(partial, lossy))
    assert done.returncode == 1
    found = {row["model"]: row for row in json.loads(done.stdout)["rows"]}
    assert {name for name, row in found.items() if row["verdict"] == "ok"} == {"whole"}
    assert set(found) == {"whole", *LOST}, "a model of another origin has no golden samples"
    for name, file in LOST.items():
        assert (found[name]["verdict"], found[name]["transport"]) == ("FAILED", "files")
        assert found[name]["reason"].startswith(f"{name}: {file} is not what was published")


def test_an_answer_needs_no_labels_from_a_damaged_record(server: ServerInfo, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "affine" / "1" / "build.json").mkdir(parents=True)
    np.save(tmp_path / "x.npy", np.ones(4, np.float32))
    done = clients("infer", "affine", tmp_path / "x.npy", *where(server, tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"{_golden.WEIGHTS.sum(axis=0)[0]:.4f}" in done.stdout


def _change(path: Path, change: object) -> None:
    golden = Golden.load(path)
    assert callable(change)
    groups = tuple(
        Group(group.inputs, {name: change(array) for name, array in group.outputs.items()}) for group in golden.groups
    )
    Golden(groups, golden.meta).save(path)


def rows(
    server: ServerInfo, repository: Path, *names: str, transports: tuple[str, ...] = ("http", "grpc", "shm")
) -> list[ValidationRow]:
    return list(validate(repository, list(names), list(transports), Addresses(server.http_url, server.grpc_url)))


@pytest.mark.parametrize("name", [*MODELS, "odd_numbers"])
def test_a_right_model_passes_every_transport_and_batch(server: ServerInfo, repository: Path, name: str) -> None:
    transports = ("http", "grpc", "shm") if name != "text" else ("http", "grpc")  # text goes through no shared memory
    found = rows(server, repository, name, transports=transports)
    assert {row.verdict for row in found} == {"ok"}, found
    expected = {
        "fixed": {"1", "4"},
        "fixed_numbers": {"1", "4"},
        "foreign": {"whole"},
        "scalars": {"whole"},
        "sequence": {"1", "8 in flight"},
        "affine": {"1", "4", "8", "8 in flight"},
    }.get(name, {"1", "2", "4", "8 in flight"})
    for transport in transports:
        assert {row.batch for row in found if row.transport == transport} == expected


@pytest.mark.parametrize("transport", ["shm", "cuda"])
def test_shared_memory_through_which_nothing_goes_is_skipped_with_the_reason(
    server: ServerInfo, repository: Path, transport: str
) -> None:
    (row,) = rows(server, repository, "text", transports=(transport,))
    assert (row.transport, row.verdict, row.samples, row.bad) == (transport, "skipped", 0, False)
    assert "no tensor of the model goes through shared memory" in row.reason


def test_only_what_goes_through_shared_memory_makes_it_worth_a_check() -> None:
    text, number, open_number = (
        TensorSpec("t", "BYTES", (1,)),
        TensorSpec("n", "FP32", (2,)),
        TensorSpec("n", "FP32", (-1,)),
    )
    words, numbers, nothing = {"t": np.array([["a"]], object)}, {"n": np.ones((1, 2))}, {"n": np.ones((1, 0))}
    for outputs, inputs, expected in (
        ((text,), words, False), ((open_number,), words, False), ((open_number,), nothing, False), ((text, number), words, True),
        ((text,), numbers, True), ((text,), {**words, **numbers}, True),
    ):  # fmt: skip
        assert uses_shared_memory(ModelInfo("m", "", (), outputs, 4, 0, {}), inputs) is expected


def test_the_version_that_answers_is_the_one_that_config_names(tmp_path: Path) -> None:
    folder = _golden.affine(tmp_path, "affine").parent
    shutil.copytree(folder / "1", folder / "2")
    config = folder / "config.pbtxt"
    for policy, number in (("", "2"), ("version_policy { specific { versions: [1] } }\n", "1")):
        config.write_text(config.read_text() + policy)
        version = published.served(tmp_path, "affine")
        assert version is not None
        assert version.version == number
    assert published.served(tmp_path, "nothing") is None


def test_requests_in_flight_are_really_merged(server: ServerInfo, repository: Path) -> None:
    for row in rows(server, repository, "affine"):
        if "in flight" in row.batch:
            assert row.merged is not None
            assert row.merged > 1.5
            assert row.samples == 48


def test_a_server_that_merges_nothing_is_reported_as_less_proof(server: ServerInfo, repository: Path) -> None:
    flights = [row for row in rows(server, repository, "two", transports=("http",)) if "in flight" in row.batch]
    assert flights[0].merged == 1
    assert "merged nothing" in flights[0].reason


@pytest.mark.parametrize("name", ["altered", "swapped"])
def test_a_wrong_answer_is_caught_in_every_row(closed: ServerInfo, faulty: Path, name: str) -> None:
    found = rows(closed, faulty, name, transports=("http", "grpc"))
    assert {row.verdict for row in found} == {"WRONG"}
    assert all(row.reason.startswith("y: ") for row in found)


def test_answers_mixed_up_between_requests_are_caught_where_they_meet(closed: ServerInfo, faulty: Path) -> None:
    found = {row.batch: row.verdict for row in rows(closed, faulty, "reverser", transports=("http",))}
    assert found == {"1": "ok", "4": "WRONG", "8": "WRONG", "8 in flight": "WRONG"}


def test_no_more_requests_are_in_flight_than_the_server_lets_wait(closed: ServerInfo, faulty: Path) -> None:
    found = {row.batch: row.verdict for row in rows(closed, faulty, "queued", transports=("http",))}
    assert found == {"1": "ok", "4": "ok", "8": "ok", "2 in flight": "ok"}


@pytest.mark.parametrize(("name", "words"), [("damaged", "golden.npz"), ("unjudged", "tolerances")])
def test_golden_files_that_cannot_be_used_fail_by_name(closed: ServerInfo, faulty: Path, name: str, words: str) -> None:
    found = rows(closed, faulty, name, transports=("http",))
    assert [row.verdict for row in found] == ["FAILED"]
    assert words in found[0].reason


def test_shared_memory_that_is_not_allowed_is_skipped_by_name_with_the_reason(closed: ServerInfo, faulty: Path) -> None:
    done = clients("validate", "affine", "--json", *where(closed, faulty))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["failures"] == 0
    assert document["models"][0]["skipped"] == ["shm", "cuda"]
    assert document["models"][0]["first_failing_stage"] is None
    skipped = [row for row in document["rows"] if row["verdict"] == "skipped"]
    assert "does not let clients register" in skipped[0]["reason"]


def test_the_command_names_the_first_failing_stage_and_how_to_see_it_again(closed: ServerInfo, faulty: Path) -> None:
    done = clients("validate", "--json", *where(closed, faulty))
    assert done.returncode == 1
    document = json.loads(done.stdout)
    stages = {model["model"]: model["first_failing_stage"] for model in document["models"]}
    assert stages == {
        "affine": None,
        "queued": None,
        "altered": "http",
        "swapped": "http",
        "reverser": "http",
        "damaged": "golden",
        "unjudged": "golden",
    }
    assert "altered: the first failing stage is http" in done.stderr
    command = next(
        line for line in done.stderr.splitlines() if "clients validate altered --transport http" in line
    ).split("python -m clients ")[1]
    again = clients(*command.split())
    assert again.returncode == 1
    assert "altered" in again.stdout


def test_a_transport_that_does_not_work_is_the_failing_stage(closed: ServerInfo, faulty: Path) -> None:
    done = clients(
        "validate",
        "affine",
        "--json",
        "--url",
        closed.http_url,
        "--grpc-url",
        f"127.0.0.1:{free_ports(1)[0]}",
        "--repository",
        faulty,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["models"][0]["first_failing_stage"] == "grpc"


def test_random_weights_are_shown_in_the_table(server: ServerInfo, repository: Path) -> None:
    done = clients("validate", "two", "affine", "--transport", "http", *where(server, repository))
    assert done.returncode == 0
    assert "two (random weights)" in done.stdout
    assert "affine (random weights)" not in done.stdout


def lines(stdout: str, *words: str) -> list[str]:
    """Return the lines of a table that hold all words."""
    return [line for line in stdout.splitlines() if "│" in line and all(word in line for word in words)]


def test_a_healthy_model_has_one_line_per_transport_and_one_per_row_where_wanted(
    server: ServerInfo, repository: Path
) -> None:
    command = ["validate", "affine", "--transport", "http", "--transport", "grpc", *where(server, repository)]
    done = clients(*command)
    for transport in ("http", "grpc"):
        assert len(lines(done.stdout, "affine", transport)) == 1
        assert lines(done.stdout, transport, "1, 4, 8, 8 in")
    assert "8 checks passed" in done.stdout
    assert len(lines(clients(*command, "--verbose").stdout, "affine", "http")) == 4
    assert len(json.loads(clients(*command, "--json").stdout)["rows"]) == 8


def test_where_something_is_wrong_every_row_is_shown(closed: ServerInfo, faulty: Path) -> None:
    done = clients("validate", "reverser", "affine", "--transport", "http", *where(closed, faulty))
    assert len(lines(done.stdout, "reverser", "WRONG")) == 3
    assert len(lines(done.stdout, "reverser", " ok ")) == 1
    assert len(lines(done.stdout, "affine")) == 1


def test_chosen_batch_sizes_are_the_only_ones(server: ServerInfo, repository: Path) -> None:
    flags = ["--transport", "http", "--batch", "max", "--batch", "1", "--json"]
    names = ("affine", "fixed", "foreign")
    document = json.loads(clients("validate", *names, *flags, *where(server, repository)).stdout)
    sizes = {name: [row["batch"] for row in document["rows"] if row["model"] == name] for name in names}
    assert sizes == {"affine": ["1", "8"], "fixed": ["1", "4"], "foreign": ["whole"]}
    assert {row["verdict"] for row in document["rows"]} == {"ok"}


def test_a_batch_size_that_the_model_does_not_take_is_skipped_by_name(server: ServerInfo, repository: Path) -> None:
    done = clients("validate", "affine", "--transport", "http", "--batch", "16", *where(server, repository), "--json")
    assert done.returncode == 0
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["batch"], row["verdict"]) == ("16", "skipped")
    assert "at most 8 samples" in row["reason"]


def test_the_command_of_a_failure_keeps_the_chosen_batch_sizes(closed: ServerInfo, faulty: Path) -> None:
    done = clients("validate", "reverser", "--batch", "4", *where(closed, faulty))
    assert done.returncode == 1
    assert "--transport http --batch 4" in done.stdout


@pytest.mark.parametrize("size", ["0", "-1", "all", "1.5", "²"])
def test_what_is_not_a_batch_size_is_a_usage_error(repository: Path, size: str) -> None:
    done = clients("validate", "--batch", size, "--repository", repository)
    assert done.returncode == 2
    assert "batch" in done.stderr


def test_an_unknown_model_is_a_usage_error_with_the_nearest_name(server: ServerInfo, repository: Path) -> None:
    done = clients("validate", "afine", *where(server, repository))
    assert done.returncode == 2
    assert "did you mean 'affine'?" in done.stderr


def test_no_server_is_a_machine_that_is_not_ready(repository: Path) -> None:
    port = free_ports(1)[0]
    done = clients("validate", "--json", "--url", f"127.0.0.1:{port}", "--repository", repository)
    assert done.returncode == 3
    assert "python -m serving" in done.stderr
    assert json.loads(done.stdout)["errors"]


def test_no_repository_is_a_machine_that_is_not_ready(tmp_path: Path) -> None:
    done = clients("validate", "--repository", tmp_path / "nowhere")
    assert done.returncode == 3
    assert "build_all.py" in done.stderr


def test_a_model_that_is_published_but_not_served_fails_by_name(server: ServerInfo, tmp_path: Path) -> None:
    _golden.affine(tmp_path, "newcomer")
    found = rows(server, tmp_path, "newcomer")
    assert [row.verdict for row in found] == ["FAILED"]
    assert "newcomer" in found[0].reason


def test_rows_from_before_the_server_went_away_are_still_shown(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    for name in ("a", "b", "c"):
        _golden.affine(repository, name)
    launched = launch(tmp_path / "run", repository).wait_ready()
    command = [sys.executable, "-m", "clients", "validate", "--json", *where(launched.info, repository)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert launched.process.stdout is not None
    try:
        assert process.stderr.readline().startswith("a ")
        launched.stop(signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        launched.stop()
        launched.process.stdout.close()
    assert process.returncode == 3
    document = json.loads(stdout)
    assert document["rows"][0]["model"] == "a"
    assert document["failures"] == 0, "a server that went away is not a failed stage"
    assert document["errors"]
    assert "error: " in stderr


def test_validate_says_when_the_server_is_gone(repository: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(ConnectionFailed):
        list(validate(repository, ["affine"], ["http"], Addresses(address, address)))
