"""Load tests of models of every kind: what validate sends, they send, and no chosen model or transport is passed over."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clients import published
from measure.load.user_selection import Turns
from measure.record.answer_checks import GoldenAnswers
from measure.report import verdict as run_verdict
from tests._project import ROOT
from tests.measure.conftest import Kinds, LoadRun, locust
from tests.measure.test_crosscheck import referee
from tests.measure.test_records import report as made
from tests.measure.test_records import typed


def covered(done: LoadRun, kinds: Kinds, *transports: str) -> None:
    """Every model got requests over every transport, and every answer was checked and right."""
    rows = done.report["models"]
    assert {(row["model"], row["protocol"]) for row in rows} == {(m, t) for m in kinds.models for t in transports}
    for row in rows:
        assert row["requests"] > 0
        assert row["checked"] == row["requests"], row
        assert (row["failures"], row["wrong"], row["unanswered"]) == (0, 0, 0), row["errors"]
    assert done.report["not_requested"] == []
    assert not any("no request" in reason for reason in done.report["verdict"]["reasons"])


@pytest.mark.parametrize(
    ("tag", "users", "flags"), [("http", "1", ()), ("grpc", "2", ("--processes", "2")), ("shm", "3", ())]
)
def test_few_users_cover_every_model(
    kinds: Kinds, tmp_path: Path, tag: str, users: str, flags: tuple[str, ...]
) -> None:
    done = locust(kinds.server, tmp_path, "-u", users, "-r", users, "-t", "4s", "--tags", tag, *flags, check="1")
    assert done.code == 0, done.text
    covered(done, kinds, tag)


def test_few_connections_of_an_open_loop_cover_every_model(kinds: Kinds, tmp_path: Path) -> None:
    done = locust(kinds.server, tmp_path, "-u", "2", "-r", "2", check="1", arrivals="constant", rate="60:4s")
    assert done.code == 0, done.text
    covered(done, kinds, "http", "grpc")
    assert done.report["load"]["due"] == 240 == sum(row["requests"] for row in done.report["models"])


def test_a_version_that_took_over_knows_its_answers_to_inputs_of_every_kind(kinds: Kinds) -> None:
    for name in kinds.models:
        version = published.version(kinds.project.repository, name, "1")
        golden, answers = version.golden(), GoldenAnswers(version)
        for group in golden.batches(4):
            found = answers.to(group.inputs)
            assert found is not None, name
            for output, array in group.outputs.items():
                assert found.outputs[output].tolist() == array.tolist(), (name, output)


def test_a_transport_without_a_user_is_named_and_no_pass(kinds: Kinds, tmp_path: Path) -> None:
    done = locust(kinds.server, tmp_path, "-u", "1", "-t", "4s", "--tags", "http", "shm", wait_s="0.01")
    used = {row["protocol"] for row in done.report["models"]}
    assert len(used) == 1
    (left,) = {"http", "shm"} - used
    assert done.report["verdict"]["status"] == "inconclusive"
    assert any(f"nothing was sent over {left}" in reason for reason in done.report["verdict"]["reasons"]), done.text
    assert {tuple(pair) for pair in done.report["not_requested"]} == {(name, left) for name in kinds.models}


def test_a_model_that_a_trace_never_names_is_named_and_no_pass(kinds: Kinds, tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("\n".join(f"{number / 100},labels" for number in range(300)))
    done = locust(
        kinds.server, tmp_path, "-u", "2", "-r", "2", "--tags", "http", arrivals=f"trace:{tmp_path}/trace.csv", models="labels,whole"
    )  # fmt: skip
    assert done.code == 0, done.text
    assert done.report["verdict"]["status"] == "inconclusive"
    assert any("whole got no request" in reason for reason in done.report["verdict"]["reasons"]), done.text


@pytest.mark.parametrize(("name", "protocol"), [("missing", "grpc"), ("whole", "http"), ("sequence", "grpc")])
def test_the_referee_sends_what_validate_sends(kinds: Kinds, tmp_path: Path, name: str, protocol: str) -> None:
    load = ("--rate", "40", "--duration-s", "2", "--connections", "4", "--protocol", protocol)
    done = referee(kinds.server, tmp_path, name, *load, "--json")
    assert done.returncode == 0, done.stderr
    for row in json.loads(done.stdout)["rows"]:
        assert row["failures"] == 0
        assert row["requests"] > 40


def sweep(kinds: Kinds, folder: Path, name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest", "sweep", name, "--instances", "1", "--repeats", "1", "--duration-s", "1",
               "--repository", str(kinds.project.repository), "--runs", str(folder), "--json", *flags]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", ["missing", "sequence"])
def test_a_sweep_sends_what_validate_sends(kinds: Kinds, tmp_path: Path, name: str) -> None:
    done = sweep(kinds, tmp_path, name)
    assert done.returncode == 0, done.stderr
    (point,) = json.loads(done.stdout)["points"]
    assert (point["failures"], point["wrong"]) == (0, 0)
    assert point["throughput_per_s"]["mean"] > 0
    assert ("sequences" in point["label"]) == (name == "sequence")


def test_a_sequence_model_has_no_dynamic_batcher_to_sweep(kinds: Kinds, tmp_path: Path) -> None:
    done = sweep(kinds, tmp_path, "sequence", "--queue-delay-us", "off,500")
    assert done.returncode == 2
    assert "sequence_batching" in done.stderr


def test_no_two_requests_in_flight_are_of_one_sequence(kinds: Kinds, tmp_path: Path) -> None:
    """Each request is a sequence of its own: with one id for two, they would wait for each other in one slot."""
    (tmp_path / "ids.py").write_text(IDS)
    done = locust(kinds.server, tmp_path, "-u", "6", "-r", "6", "-t", "4s", "-f", f"loadtest/,{tmp_path}/ids.py", "--tags", "grpc",
                  check="1", models="sequence")  # fmt: skip
    assert done.code == 0, done.text
    (row,) = done.report["models"]
    assert (row["failures"], row["wrong"]) == (0, 0)
    assert row["checked"] == row["requests"] > 6
    found = re.search(r"ids: (\d+) used by (\d+) users, (\d+) by two", done.text)
    assert found is not None, done.text
    assert int(found[1]) >= int(found[2]) == 6
    assert int(found[3]) == 0


IDS = """
from collections import defaultdict
from locust import events
from clients import PreparedRequest
seen, raw = defaultdict(set), PreparedRequest.raw

def noted(self):
    seen[self._request.chunk.step.sequence_id].add(id(self._model))
    return raw(self)

PreparedRequest.raw = noted

@events.quitting.add_listener
def tell(**_):
    users = {user for users in seen.values() for user in users}
    print(f"ids: {len(seen)} used by {len(users)} users, {sum(len(each) > 1 for each in seen.values())} by two")
"""


@pytest.mark.parametrize("users", [1, 2, 3, 4, 7, 12])
def test_users_share_the_models_by_their_weights(users: int) -> None:
    names = ["a", "a", "a", "b", "c"]
    turns, each = Turns(names), [object() for _ in range(users)]
    for user in each:
        turns.join(user)
    shares = [turns.models(user) for user in each]
    if users <= len(names):
        assert sorted(name for share in shares for name in share) == names
    else:  # with users enough, each keeps to one model
        assert [share for (share,) in shares] == [names[place % len(names)] for place in range(users)]


def test_a_user_that_leaves_hands_its_models_on() -> None:
    turns = Turns(["a", "b"])
    turns.join("first")
    turns.join("second")
    assert (turns.models("first"), turns.models("second")) == (("a",), ("b",))
    turns.leave("first")
    assert turns.models("second") == ("a", "b")


def passed(*rows: dict[str, Any]) -> str:
    return run_verdict.passed(typed({**made(), "models": [{**made()["models"][0], **row} for row in rows]}))


def test_a_pass_speaks_of_the_slos_that_there_are() -> None:
    assert "SLO of m is met" in passed({})
    both = passed({"model": "a"}, {"model": "b", "slo": {}})
    assert "the SLO of a is met" in both
    assert "b has no SLO" in both
    assert "met" not in passed({"slo": {}})
    assert "no answer was checked" in passed({"checked": 0})
    assert "none of 100 checked" in passed({"model": "a"}, {"model": "b"})
