"""doctor reports the state of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders import doctor

REFUSED = "echo 'Client: Docker Engine'; echo 'Cannot connect to the Docker daemon. Is it running?' >&2; exit 1"


@pytest.mark.parametrize(
    ("programs", "status", "words"),
    [
        ({}, doctor.WARN, "none"),
        ({"docker": "echo fine"}, doctor.OK, "docker works"),
        ({"docker": REFUSED}, doctor.WARN, "Is it running?"),
        ({"docker": "exec /bin/sleep 30"}, doctor.WARN, "no answer within"),
        ({"docker": REFUSED, "podman": "echo fine"}, doctor.OK, "podman works"),
    ],
    ids=["none", "works", "no daemon", "hangs", "the other works"],
)
def test_a_container_engine_is_more_than_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: dict[str, str], status: str, words: str
) -> None:
    """No daemon runs on a machine for tests, so what `docker info` does with and without one is played."""
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "CONTAINER_TIMEOUT_S", 1.0)
    [check] = [check for check in doctor.examine() if check.point == "container engine"]
    assert check.status == status
    assert words in check.found
    assert bool(check.fix) == (status == doctor.WARN)
