"""A signal handler that raises must not break the polling of a child process."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from planwright.own_server import ended

ROUNDS = 2000


class Interrupted(BaseException):
    """What the handler raises."""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def raising() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGINT, interrupt)
    alarm = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, alarm)
    signal.signal(signal.SIGINT, before)


def test_interrupts_never_leave_the_child_locked(child: subprocess.Popen[bytes], raising: None) -> None:
    hits = 0
    for _ in range(ROUNDS):
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-6, 3e-5))
            for _ in range(20):
                assert not ended(child)
            time.sleep(0.0001)
        except Interrupted:
            hits += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert hits > ROUNDS / 10, "the handler hardly ever raised, so nothing was shown"
    child.terminate()
    assert child.wait(5) == -signal.SIGTERM
    assert ended(child)
