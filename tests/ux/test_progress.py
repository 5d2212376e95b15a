"""Long work shows its progress: in place on a terminal, now and then a line elsewhere; short work shows nothing."""

from __future__ import annotations

import io

import pytest

from planwright import console


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that advances by a fixed step at each reading."""

    def __init__(self, step_s: float) -> None:
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, step_s: float, *, stop: int = 10) -> str:
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr("planwright.console.time.monotonic", Clock(step_s))
    for item in console.progress("reference", range(10), 10):
        if item == stop:
            break
    return stream.getvalue()


def test_a_terminal_shows_the_count_in_place_and_clears_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal(), 0.5)
    assert "reference 2/10\r" in text
    assert "\n" not in text
    assert text.endswith("\033[2K\r")


def test_a_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, io.StringIO(), 5).splitlines()
    assert lines
    assert len(lines) <= 3
    assert lines[0].startswith("reference ")
    assert "\033" not in "".join(lines)


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_short_work_is_silent(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> None:
    assert shown(monkeypatch, stream, 0.01) == ""


def test_progress_is_cleared_where_the_work_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, Terminal(), 0.5, stop=6).endswith("\033[2K\r")


def test_calls_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr("planwright.console.time.monotonic", Clock(0.5))

    def double(value: int) -> int:
        return 2 * value

    counted = console.counted("verify", double, 3)
    assert [counted(value) for value in (1, 2, 3, 4)] == [2, 4, 6, 8]
    assert "verify 2/3\r" in stream.getvalue()
