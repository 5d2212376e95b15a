"""Flags that sweep and tune share, and how their lists are read.

In      argparse parsers.
Out     flags; lists of numbers, queue delays and preferred sizes as values.

A list that cannot be read is a `SpecError`: its text names the flag, because argparse passes no more than the word.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from measure.operating_point import locust_process
from planwright import console
from planwright.errors import Fault, SpecError
from planwright.repository_folder import repository_folder
from planwright.server_info import SERVER_FILE

CONFIG = Path("config.yaml")
Numbers = tuple[int, ...]


def numbers(flag: str, what: str, example: str, high: int) -> Callable[[str], Numbers]:
    """Return a reader of ``1,2,4``."""

    def read(text: str) -> Numbers:
        try:
            found = tuple(int(part) for part in text.split(","))
        except ValueError:
            found = ()
        if not found or any(number < 1 or number > high for number in found) or len(set(found)) < len(found):
            why = f"{what} are 1 to {high}, each once"
            raise SpecError(Fault(f"{flag} {text}", why=why, fix=f"{flag} {example}"))
        return found

    return read


def delays_us(text: str) -> tuple[int | None, ...]:
    """Read ``off,0,500``; ``off`` is no dynamic batcher."""
    parts = [part.strip() for part in text.split(",")]
    bad = [part for part in parts if part != "off" and not (part.isdecimal() and int(part) <= 10_000_000)]
    if bad or len(set(parts)) < len(parts):
        why = "queue delays are whole microseconds up to 10 s, or off for no dynamic batcher, each once"
        raise SpecError(Fault(f"--queue-delay-us {text}", why=why, fix="--queue-delay-us off,0,500,2000"))
    return tuple(None if part == "off" else int(part) for part in parts)


def preferred(text: str) -> tuple[Numbers, ...]:
    """Read ``none;4,8``: alternatives with semicolons between them, each ``none`` or sizes."""
    fix = '--preferred "none;4,8"'
    read = numbers("--preferred", "preferred batch sizes", '"none;4,8"', 1 << 16)
    found: list[Numbers] = []
    for part in text.split(";"):
        found.append(() if part.strip() == "none" else tuple(sorted(read(part))))
    if len(set(found)) < len(found):
        raise SpecError(Fault(f"--preferred {text}", why="an alternative is given twice", fix=fix))
    return tuple(found)


def switches(text: str) -> tuple[bool, ...]:
    """Read ``off,on``."""
    parts = [part.strip() for part in text.split(",")]
    if not set(parts) <= {"on", "off"} or len(set(parts)) < len(parts):
        raise SpecError(Fault(f"--cuda-graphs {text}", why="it is off, on, or both", fix="--cuda-graphs off,on"))
    return tuple(part == "on" for part in parts)


def add_axes(parser: argparse.ArgumentParser, *, instances: Numbers, told: str) -> None:
    """Add what may be set; `told` says what holds where a flag is not given; a tune has no default `instances`."""
    add = parser.add_argument
    add("--instances", type=numbers("--instances", "numbers of instances", "1,2,4", 64), default=instances, metavar="1,2,4",
        help=f"instance_group count (default: {','.join(map(str, instances)) or told})")  # fmt: skip
    add("--max-batch", type=numbers("--max-batch", "batch sizes", "8,16", 1 << 16), default=(), metavar="8,16",
        help=f"max_batch_size, at most the published one (default: {told})")  # fmt: skip
    add("--queue-delay-us", type=delays_us, default=(), metavar="off,0,500",
        help=f"dynamic_batching.max_queue_delay_microseconds; off for no dynamic batcher (default: {told})")  # fmt: skip
    if not instances:
        return
    add("--preferred", type=preferred, default=(), metavar='"none;4,8"',
        help="dynamic_batching.preferred_batch_size, alternatives with ; between them (default: as published)")  # fmt: skip
    add("--cuda-graphs", type=switches, default=(), metavar="off,on",
        help="optimization.cuda.graphs, for the tensorrt target (default: as published)")  # fmt: skip


def add_tune(parser: argparse.ArgumentParser) -> None:
    """Add all flags of ``tune``."""
    add = parser.add_argument
    add(
        "--slo",
        metavar='"p99<20ms"',
        help="p50, p90, p95, p99 or p99.9, and a time in us, ms or s (default: the model's own)",
    )
    add("--points", type=int, default=12, help="settings that are tried at most (default: %(default)s)")
    add("--minutes", type=float, default=5.0, help="length of the whole measurement at most (default: %(default)s)")
    add("--users", type=numbers("--users", "numbers of requests in flight", "4,8,16", 4096), default=(), metavar="4,8,16",
        help="requests in flight that may be chosen (default: powers of two)")  # fmt: skip
    add_axes(parser, instances=(), told="what suits the machine")
    add("--write", action="store_true", help="put a found gain into config.yaml, comments and form kept")
    add("--config", type=Path, default=CONFIG, help="the file for --write (default: %(default)s)")
    add_load(parser, duration_s=3.0, repeats=3)


def add_load(parser: argparse.ArgumentParser, *, duration_s: float, repeats: int) -> None:
    """Add how a point is measured, and where things are."""
    add = parser.add_argument
    add("--protocol", choices=locust_process.TRANSPORTS, default="grpc",
        help="shm and cuda are shared memory, on the server's own machine (default: %(default)s)")  # fmt: skip
    add("--processes", type=int, default=1, help="of the load, where one core is too few (default: %(default)s)")
    add("--batch", type=int, default=1, help="samples per request (default: %(default)s)")
    add("--duration-s", type=float, default=duration_s, help="length of one measurement (default: %(default)s)")
    add(
        "--warmup-s",
        type=float,
        default=1.0,
        help="start of each measurement that does not count (default: %(default)s)",
    )
    add("--repeats", type=int, default=repeats, help="measurements per point, interleaved (default: %(default)s)")
    add("--repository", type=Path,
        help="where the model is published; only read (default: what the server running here serves, else model_repository)")  # fmt: skip
    add(
        "--server",
        metavar="URL",
        help="use this server (explicit mode) instead of one of its own; its config is restored",
    )
    add("--runs", type=Path, default=Path("runs"), help="folder of the run records")
    console.add_json_flag(parser)


def repository(args: argparse.Namespace) -> Path:
    """Return where the model is published; a config other than the usual one says where its models are."""
    config = getattr(args, "config", CONFIG)
    server_file = Path(os.environ.get("PLANWRIGHT_SERVER_FILE", SERVER_FILE))
    return repository_folder(args.repository, server_file, config=None if config == CONFIG else config)


def check_load(args: argparse.Namespace) -> None:
    """Refuse lengths and counts that mean nothing.

    Raises:
        SpecError: All of them at once (exit 2).
    """
    limits = {
        "batch": (1, 1 << 20),
        "processes": (1, 64),
        "repeats": (1, 1000),
        "duration_s": (0.5, 3600),
        "warmup_s": (0, 3600),
    }
    faults = []
    for name, (low, high) in limits.items():
        value = getattr(args, name)
        if not low <= value <= high:
            flag = "--" + name.replace("_", "-")
            faults.append(Fault(f"{flag} {value:g}", fix=f"give a number from {low:g} to {high:g}"))
    if faults:
        raise SpecError(*faults)
