"""Report environment differences between two sets of runs, so that new hardware is not read as a speed-up.

In      the records of both sides.
Out     `Difference`s, each with its name and the values of both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from measure.report.records import BUILD, Key, Record
from planwright.console import flat
from planwright.decimals import exact, scaled
from planwright.errors import Fault


@dataclass(frozen=True)
class Difference:
    what: str
    base: str
    new: str

    @property
    def words(self) -> str:
        return f"{self.what}: {self.base} in the base, {self.new} in the new"

    def fault(self) -> Fault:
        """Return it as an error, for ``--strict``."""
        fix = "measure both sides under the same conditions, or omit --strict"
        return Fault("the runs cannot be compared", why=self.words, fix=fix)


def _environment(name: str) -> Callable[[Record], Any]:
    return lambda record: record.report.get("environment", {}).get(name, "")


def _server(record: Record) -> Any:
    return record.report.get("environment", {}).get("server", {}).get("version", "")


def _client(record: Record) -> str:
    versions = {"Python": _environment("python")(record), **(_environment("versions")(record) or {})}
    return ", ".join(f"{name} {version}" for name, version in versions.items())


# condition of a run -> how it is read from a record
_CONDITIONS: dict[str, Callable[[Record], Any]] = {
    "machine": _environment("cpu"),
    "cores": _environment("cores"),
    "system": _environment("system"),
    "server version": _server,
    "client": _client,
    "users": lambda record: record.report.get("users", ""),
    "warm-up in seconds": lambda record: record.report.get("warmup_s", ""),
    "scenario": lambda record: record.load["scenario"],
    "arrivals": lambda record: record.load["arrivals"],
    "rate": lambda record: record.load["rate"],
    "rest between requests in seconds": lambda record: record.load.get("wait_s", ""),
    "profile of users": lambda record: record.load.get("profile", "") or "none",
    "weights": lambda record: flat(record.load.get("weights", {})),
}


def differences(base: Sequence[Record], new: Sequence[Record]) -> list[Difference]:
    """Return everything in which the sides, or the runs of one side, differ."""
    found = [_between(what, map(read, base), map(read, new)) for what, read in _CONDITIONS.items()]
    rows = [*_only_one_side(base, new), *_builds(base, new)]
    return [difference for difference in [*found, *dict.fromkeys(rows)] if difference is not None]


def common(base: Sequence[Record], new: Sequence[Record]) -> list[Key]:
    return [key for key in _keys(base) if key in set(_keys(new))]


def _keys(records: Sequence[Record]) -> list[Key]:
    return list(dict.fromkeys(key for record in records for key in record.rows))


def _only_one_side(base: Sequence[Record], new: Sequence[Record]) -> Iterator[Difference]:
    for key in dict.fromkeys([*_keys(base), *_keys(new)]):
        counts = [sum(key in record.rows for record in records) for records in (base, new)]
        if counts != [len(base), len(new)]:
            values = [f"in {count} of {len(side)} runs" for count, side in zip(counts, (base, new), strict=True)]
            yield Difference(f"measured {' over '.join(key)}", *values)


def _builds(base: Sequence[Record], new: Sequence[Record]) -> Iterator[Difference | None]:
    for key in common(base, new):
        rows = [[record.rows[key] for record in records if key in record.rows] for records in (base, new)]
        for name in BUILD:
            yield _between(f"{name} of {key[0]}", *((row.build[name] for row in side) for side in rows))
        limits = ([f"{exact(scaled(r.slo_us, '0.001'))} ms" if r.slo_us else "none" for r in side] for side in rows)
        yield _between(f"SLO of {key[0]}", *limits)


def _between(what: str, base: Iterable[Any], new: Iterable[Any]) -> Difference | None:
    """Return the difference; None where all runs of both sides have the same value."""
    sides = [list(dict.fromkeys(str(value) or "unknown" for value in side)) for side in (base, new)]
    if sides[0] == sides[1] and len(sides[0]) == 1:
        return None
    return Difference(what, *(" and ".join(side) for side in sides))
