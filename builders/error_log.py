"""``build/<model>/error.log``: what libraries print and where stack traces go, so that the terminal shows neither.

In      the path of the log, a block that calls a verbose library; an exception.
Out     the log, with everything that the block printed, warned or logged, also from C; the one line of an exception that is shown.

A build that succeeds removes the log; the error of one that fails names it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FULL_BYTES = 1 << 20
_LONGEST = 300  # characters of one reason; error.log has the rest


def reason(error: BaseException) -> str:
    """Return the first line of an error's text, without ONNX Runtime's status prefix and C++ source places; its class if it has none."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error).strip())
    text = re.sub(r"\S*/\S+\.(?:cc|h|cpp):\d+ \S+\([^)]*\)( const)?\s*", "", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:_LONGEST] if lines else type(error).__name__


def disk_full(folder: Path) -> bool:
    """Return True if so little space is free that a failed write means a full disk, whatever the library calls it."""
    return shutil.disk_usage(folder).free < _FULL_BYTES


def append(log: Path, text: str) -> None:
    """Add `text`; a log that cannot be written must not hide the error itself."""
    with contextlib.suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as stream:
            stream.write(text)


@contextlib.contextmanager
def captured(log: Path | None) -> Iterator[None]:
    """Redirect everything that the block prints, warnings too, to the log; None discards it."""
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    with (log or Path(os.devnull)).open("a", encoding="utf-8") as stream, _warnings_to(stream), _output_to(stream):
        yield


@contextlib.contextmanager
def _warnings_to(stream: Any) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            yield
        finally:
            for item in caught:
                stream.write(warnings.formatwarning(item.message, item.category, item.filename, item.lineno))


@contextlib.contextmanager
def _output_to(stream: Any) -> Iterator[None]:
    """Redirect Python's streams and the file descriptors below them, which C libraries write to."""
    kept = [(number, os.dup(number)) for number in (1, 2)]
    _flush()
    try:
        for number, _ in kept:
            os.dup2(stream.fileno(), number)
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            yield
    finally:
        stream.flush()
        _flush()
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)


def _flush() -> None:
    """Flush the buffers of Python and of the C library."""
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)
