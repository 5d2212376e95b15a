"""When each request of an open loop is due.

In      a profile of requests per second (or a trace), the models with their weights, this process's share.
Out     `Arrival`s in order, endless where the profile is.

Poisson arrivals of a rate that changes are those of a steady unit rate, seen through the inverse of the rate's integral
(E. Cinlar, Introduction to Stochastic Processes, 1975, 4.7). Shares of several processes: Poisson streams of a part of the
rate add up to a Poisson stream; constant streams are interleaved; of a trace each process takes every n-th line.
"""

from __future__ import annotations

import csv
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from planwright.config.load_profile import Profile
from planwright.decimals import exact
from planwright.errors import Fault, SpecError

SHOWN_FAULTS = 5


class Arrival(NamedTuple):
    """A request: seconds after the start, and the model it calls."""

    due_s: float
    model: str


class Share(NamedTuple):
    """This process's part: `number` (from 0) `of` so many."""

    number: int = 0
    of: int = 1


def poisson(rate: Profile, models: Sequence[str], share: Share, seed: int) -> Iterator[Arrival]:
    """Yield arrivals with exponential gaps; `models` repeats each name by its weight."""
    generator = random.Random(seed * 1009 + share.number)
    total = 0.0
    while True:
        total += generator.expovariate(1.0) * share.of
        due_s = rate.moment(total)
        if due_s is None:
            return
        yield Arrival(due_s, models[generator.randrange(len(models))])


def constant(rate: Profile, models: Sequence[str], share: Share) -> Iterator[Arrival]:
    """Yield arrivals at equal gaps, models in turn."""
    for number in itertools.count(share.number, share.of):
        due_s = rate.moment(float(number))
        if due_s is None:
            return
        yield Arrival(due_s, models[number % len(models)])


def trace(lines: Sequence[Arrival], share: Share) -> Iterator[Arrival]:
    return iter(lines[share.number :: share.of])


def read_trace(path: Path, models: Sequence[str]) -> list[Arrival]:
    """Read ``seconds[,model]`` per line, times not falling; lines without a model call the models in turn.

    Raises:
        SpecError: The file is missing, or lines cannot be read; the first five with their numbers.
    """
    try:
        rows = list(csv.reader(path.read_text().splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        fix = "name a CSV file: seconds[,model]"
        raise SpecError(Fault("the trace cannot be read", str(path), str(error), fix)) from None
    found: list[Arrival] = []
    faults: list[Fault] = []
    for number, row in enumerate(rows, 1):
        if not row or row[0].lstrip().startswith("#"):
            continue
        arrival = _line(row, models, len(found))
        why = "" if arrival else f"'{','.join(row)}' is not seconds[,model] of a model that is loaded"
        if arrival and found and arrival.due_s < found[-1].due_s:
            why = f"{exact(arrival.due_s)} s comes after {exact(found[-1].due_s)} s"
        if why:
            fix = "write seconds[,model], times not falling"
            faults.append(Fault("the trace has a bad line", f"{path}:{number}", why, fix))
        elif arrival:
            found.append(arrival)
    if faults:
        raise SpecError(*faults[:SHOWN_FAULTS])
    if not found:
        raise SpecError(Fault("the trace is empty", str(path), fix="write one line per request: seconds[,model]"))
    return found


def _line(row: Sequence[str], models: Sequence[str], number: int) -> Arrival | None:
    name = row[1].strip() if len(row) > 1 and row[1].strip() else models[number % len(models)]
    try:
        due_s = float(row[0])
    except ValueError:
        return None
    return Arrival(due_s, name) if name in models and due_s >= 0 and math.isfinite(due_s) else None
