"""The only module that prints.

In      rows, lines and errors from the commands.
Out     tables and progress on the terminal, or JSON on standard output under ``--json``.

Human text goes to standard error when ``--json`` is given, so that standard output holds JSON only.
rich is imported when a table is drawn: `--help` and a build with nothing to do stay fast.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from planwright.errors import EXIT_INTERRUPTED, Fault, PlanwrightError, SpecError, missing_package
from planwright.files import ROOT

_REDRAW_S, _REPORT_S = 0.2, 20.0  # between two updates of progress on a terminal, and in a file
_json_mode = False
S = TypeVar("S")
T = TypeVar("T")


def set_json(enabled: bool) -> None:
    """Send human text to standard error from now on, so that standard output is JSON only."""
    global _json_mode  # one process, one output mode: set once by the command line
    _json_mode = enabled


def say(text: str = "") -> None:
    """Print one line for a person; flushed, so that logs and pipes show progress at once."""
    print(text, file=sys.stderr if _json_mode else sys.stdout, flush=True)


def warn(text: str) -> None:
    """Print one warning line to standard error."""
    print(f"warning: {text}", file=sys.stderr, flush=True)  # noqa: T201


def emit_json(value: Any, *, one_line: bool = False) -> None:
    """Print `value` as the command's one JSON document on standard output; on one line where a program reads lines."""
    print(json.dumps(value, indent=None if one_line else 2, sort_keys=False), flush=True)  # noqa: T201


def progress(what: str, items: Iterable[T], total: int) -> Iterator[T]:
    """Yield the items and show progress: in place on a terminal, elsewhere a line every 20 s.

    Work that ends within the first second shows nothing.

    Args:
        what: What is counted.
        items: Each stands for an equal amount of work.
        total: The number of items.
    """
    stream = sys.stderr if _json_mode else sys.stdout
    terminal = stream.isatty()
    pause_s = _REDRAW_S if terminal else _REPORT_S
    due_s = time.monotonic() + (1.0 if terminal else pause_s)
    drawn = False
    try:
        for index, item in enumerate(items):
            if time.monotonic() >= due_s:
                due_s, drawn = time.monotonic() + pause_s, terminal
                print(f"{what} {index}/{total}", end="\r" if terminal else "\n", file=stream, flush=True)
            yield item
    finally:
        if drawn:
            print("\033[2K", end="\r", file=stream, flush=True)


def counted(what: str, call: Callable[[S], T], total: int) -> Callable[[S], T]:
    """Return `call` wrapped to show progress as `progress` does, where each call is an equal amount of work."""
    ticks = progress(what, range(total), total)

    def run(argument: S) -> T:
        next(ticks, None)
        return call(argument)

    return run


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(str(cell) for cell in row))
    stream = sys.stderr if _json_mode else sys.stdout
    width = None if stream.isatty() else 140
    Console(file=stream, width=width, highlight=False, markup=False).print(grid)


def fail(error: PlanwrightError) -> int:
    """Print every fault of `error` and return its exit code."""
    for fault in error.faults:
        print(fault.render(), file=sys.stderr, flush=True)  # noqa: T201
    if _json_mode:
        emit_json({"errors": [fault.as_dict() for fault in error.faults]})
    return error.exit_code


class _Commands(argparse._SubParsersAction):  # type: ignore[type-arg]
    """Commands whose own `--help` begins with the sentence that the list of commands shows."""

    def add_parser(self, name: str, **given: Any) -> Any:
        text = str(given["help"])
        return super().add_parser(name, **{"description": f"{text[:1].upper()}{text[1:]}.", **given})


class Parser(argparse.ArgumentParser):
    """argparse whose usage errors are `SpecError` (exit code 2), reported as faults."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.register("action", "parsers", _Commands)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing argparse's usage."""
        raise SpecError(Fault(message, fix=f"see {self.prog} --help"))


def run(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command's `main` and exit with its code, or with that of the error (see errors.py)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error does: a file name may be any bytes
    try:
        code = main(sys.argv[1:] if argv is None else argv)
    except PlanwrightError as error:
        code = fail(error)
    except ModuleNotFoundError as error:
        if not error.name or (ROOT / error.name.partition(".")[0]).exists():
            raise
        code = fail(missing_package(error.name))
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)  # noqa: T201
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        code = 0
        sys.stderr.close()
    raise SystemExit(code)


def human_bytes(size_bytes: float) -> str:
    """Return a size in readable units.

    Example:
        >>> human_bytes(1536), human_bytes(97_800_000)
        ('1.5 KiB', '93.3 MiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"


def many(count: int, what: str) -> str:
    """Return a count with its noun.

    Example:
        >>> many(1, "point"), many(3, "point")
        ('1 point', '3 points')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``; call `set_json` with the parsed value."""
    parser.add_argument("--json", action="store_true", help="print one JSON document on standard output")


def flat(mapping: Mapping[str, object]) -> str:
    """Return ``a=1 b=2`` for a one-line note."""
    return " ".join(f"{key}={value}" for key, value in mapping.items())
