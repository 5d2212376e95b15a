"""The server's counters over one run: followed from its start to its end, and what can be said where they cannot be read.

In      settings; at the end how many answers the client counted.
Out     `Counted`: the difference per model, the versions that are served, a note.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from measure.record.server_statistics import Server, Tally
from measure.workload.settings import Settings

EVERY_S = 2.0  # between readings while the load goes on: one costs about a millisecond
SETTLE_S, AGAIN_S = 1.0, 0.1  # a server counts an answer shortly after it has sent it


@dataclass(frozen=True)
class Counted:
    """What the server says of a run.

    Attributes:
        models: See `Tally.figures`; empty where the counters cannot be read.
        versions: Model → the newest version that is served.
        note: Why something is missing.
        lost: True where the server answered at the start and not at the end.
    """

    models: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    note: str = ""
    lost: bool = False


class Counters:
    """The counters of one run."""

    def __init__(self, settings: Settings) -> None:
        self.server = Server(settings.http_url, settings.grpc_url)
        self._names = [name for name, _ in settings.models]
        self._tally: Tally | None = None
        self._note = ""

    def begin(self) -> None:
        """Read them for the first time."""
        first, why = self.server.snapshot(self._names)
        self._tally = Tally(first) if first else None
        self._note = "" if first else f"the server's counters cannot be read: {why}"

    def follow(self) -> None:
        """Read them now and then; a greenlet that the run kills."""
        while self._tally is not None:
            time.sleep(EVERY_S)
            snapshot, _ = self.server.snapshot(self._names, configs=False)
            if snapshot is not None:
                self._tally.add(snapshot)

    def end(self, load_s: float, answers: Mapping[str, int]) -> Counted:
        """Read them for the last time; `answers` is what the client counted of each model in `load_s` seconds."""
        deadline_s, tally = time.monotonic() + SETTLE_S, self._tally
        while True:
            last, _ = self.server.snapshot(self._names)
            versions = {name: last.newest(name) for name in self._names} if last else {}
            if tally is None or last is None:
                return Counted(versions=versions, note=self._note, lost=tally is not None)
            tally.add(last)
            behind = [
                name for name in self._names if tally.requests(name) < answers.get(name, 0) and not tally.changed(name)
            ]
            if not behind or time.monotonic() > deadline_s:
                return Counted(tally.figures(load_s), versions)
            time.sleep(AGAIN_S)
