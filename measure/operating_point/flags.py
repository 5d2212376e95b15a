"""Flags shared by sweep and tune, and the parsing of their lists.

In      argparse parsers.
Out     flags; lists of numbers, queue delays and preferred sizes as values.

A list that cannot be parsed is a `SpecError` that names the flag, because argparse passes no more than the value.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from clients.options import TRANSPORTS
from planwright import console
from planwright.errors import Fault, SpecError
from planwright.repository_folder import repository_folder
from planwright.server_info import SERVER_FILE

CONFIG = Path("config.yaml")
Numbers = tuple[int, ...]


def numbers(flag: str, what: str, example: str, high: int) -> Callable[[str], Numbers]:
    """Return a parser of ``1,2,4``."""

    def read(text: str) -> Numbers:
        try:
            found = tuple(int(part) for part in text.split(","))
        except ValueError:
            found = ()
        if not found or any(number < 1 or number > high for number in found) or len(set(found)) < len(found):
            why = f"{what} must be distinct integers from 1 to {high}"
            raise SpecError(Fault(f"invalid value for {flag}: '{text}'", why=why, fix=f"{flag} {example}"))
        return found

    return read


def delays_us(text: str) -> tuple[int | None, ...]:
    """Parse ``off,0,500``; ``off`` is no dynamic batcher."""
    parts = [part.strip() for part in text.split(",")]
    bad = [part for part in parts if part != "off" and not (part.isdecimal() and int(part) <= 10_000_000)]
    if bad or len(set(parts)) < len(parts):
        why = "queue delays must be distinct integers of microseconds up to 10 s, or off for no dynamic batcher"
        raise SpecError(
            Fault(f"invalid value for --queue-delay-us: '{text}'", why=why, fix="--queue-delay-us off,0,500,2000")
        )
    return tuple(None if part == "off" else int(part) for part in parts)


def preferred(text: str) -> tuple[Numbers, ...]:
    """Parse ``none;4,8``: alternatives separated by semicolons, each ``none`` or sizes."""
    read = numbers("--preferred", "preferred batch sizes", '"none;4,8"', 1 << 16)
    found = [() if part.strip() == "none" else tuple(sorted(read(part))) for part in text.split(";")]
    if len(set(found)) < len(found):
        why = "an alternative is specified twice"
        raise SpecError(Fault(f"invalid value for --preferred: '{text}'", why=why, fix='--preferred "none;4,8"'))
    return tuple(found)


def switches(text: str) -> tuple[bool, ...]:
    """Parse ``off,on``."""
    parts = [part.strip() for part in text.split(",")]
    if not set(parts) <= {"on", "off"} or len(set(parts)) < len(parts):
        what, why = f"invalid value for --cuda-graphs: '{text}'", "it must be off, on, or both"
        raise SpecError(Fault(what, why=why, fix="--cuda-graphs off,on"))
    return tuple(part == "on" for part in parts)


def add_sweep(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_axes(parser, instances=(1, 2, 4), otherwise="as published")
    add("--preferred", type=preferred, default=(), metavar='"none;4,8"',
        help="dynamic_batching.preferred_batch_size, alternatives separated by ; (default: as published)")  # fmt: skip
    add("--cuda-graphs", type=switches, default=(), metavar="off,on",
        help="optimization.cuda.graphs, for the tensorrt target (default: as published)")  # fmt: skip
    add("--users", type=int, default=8, help="requests in flight (default: %(default)s)")
    _add_load(parser, duration_s=4.0)


def add_tune(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--slo", metavar='"p99<20ms"',
        help="p50, p90, p95, p99 or p99.9, and a time in us, ms or s (default: the model's own)")  # fmt: skip
    add("--points", type=int, default=12, help="maximum number of settings to try (default: %(default)s)")
    add("--minutes", type=float, default=5.0, help="maximum length of the whole measurement (default: %(default)s)")
    add("--users", type=numbers("--users", "numbers of requests in flight", "4,8,16", 4096), default=(), metavar="4,8,16",
        help="requests in flight to choose from (default: powers of two)")  # fmt: skip
    _add_axes(parser, instances=(), otherwise="what suits the machine")
    add("--write", action="store_true",
        help="write the setting to config.yaml if it gains, keeping comments and layout")  # fmt: skip
    add("--config", type=Path, default=CONFIG, help="the file for --write (default: %(default)s)")
    _add_load(parser, duration_s=3.0)


def _add_axes(parser: argparse.ArgumentParser, *, instances: Numbers, otherwise: str) -> None:
    """Add the settings to vary; `otherwise` describes what holds where a flag is not given."""
    add = parser.add_argument
    add("--instances", type=numbers("--instances", "numbers of instances", "1,2,4", 64), default=instances, metavar="1,2,4",
        help=f"instance_group count (default: {','.join(map(str, instances)) or otherwise})")  # fmt: skip
    add("--max-batch", type=numbers("--max-batch", "batch sizes", "8,16", 1 << 16), default=(), metavar="8,16",
        help=f"max_batch_size, at most the published one (default: {otherwise})")  # fmt: skip
    add("--queue-delay-us", type=delays_us, default=(), metavar="off,0,500",
        help=f"dynamic_batching.max_queue_delay_microseconds; off for no dynamic batcher (default: {otherwise})")  # fmt: skip


def _add_load(parser: argparse.ArgumentParser, *, duration_s: float) -> None:
    add = parser.add_argument
    add("--protocol", choices=tuple(TRANSPORTS), default="grpc",
        help="shm and cuda are shared memory, on the server's own machine (default: %(default)s)")  # fmt: skip
    add("--processes", type=int, default=1, help="load processes, if one core is not enough (default: %(default)s)")
    add("--batch", type=int, default=1, help="samples per request (default: %(default)s)")
    add("--duration-s", type=float, default=duration_s, help="length of one measurement (default: %(default)s)")
    add("--warmup-s", type=float, default=1.0, help="time before each measurement, not counted (default: %(default)s)")
    add("--repeats", type=int, default=3, help="measurements per point, interleaved (default: %(default)s)")
    add("--repository", type=Path,
        help="where the model is published; only read (default: what the server running here serves, else model_repository)")  # fmt: skip
    add("--server", metavar="URL",
        help="use this server (explicit mode) instead of starting one; its config is restored")  # fmt: skip
    add("--runs", type=Path, default=Path("runs"), help="folder for the run records")
    console.add_json_flag(parser)


def repository(args: argparse.Namespace) -> Path:
    """Return where the model is published; a config other than the usual one says where its models are."""
    config = getattr(args, "config", CONFIG)
    server_file = Path(os.environ.get("PLANWRIGHT_SERVER_FILE", SERVER_FILE))
    return repository_folder(args.repository, server_file, config=None if config == CONFIG else config)


def check_load(args: argparse.Namespace) -> None:
    """Refuse lengths and counts out of range.

    Raises:
        SpecError: All of them at once (exit 2).
    """
    limits: dict[str, tuple[float, float]] = {"batch": (1, 1 << 20), "processes": (1, 64), "repeats": (1, 1000)}
    limits |= {"duration_s": (0.5, 3600), "warmup_s": (0, 3600)}
    faults = []
    for name, (low, high) in limits.items():
        value = getattr(args, name)
        if not low <= value <= high:
            flag = "--" + name.replace("_", "-")
            faults.append(Fault(f"invalid value for {flag}: {value:g}", fix=f"give a number from {low:g} to {high:g}"))
    if faults:
        raise SpecError(*faults)
