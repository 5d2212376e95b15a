"""The outcome of a tune: what was tried, what was compared in the end, and which setting was picked.

In      filled in by `command` as the tune proceeds, so that an error or Ctrl-C loses nothing.
Out     read by `report`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from measure.operating_point.measurement import Load
from measure.operating_point.setting import ServingSetting
from measure.tune.search import Candidate, Reading, Search, Trial


@dataclass
class TuneOutcome:
    """What a tune found.

    Attributes:
        search: Every candidate that was tried.
        default, published: The settings the pick is compared with.
        finals: Candidate → the readings of the final comparison.
        pick: The best candidate that met the SLO in the final comparison; None where none did.
        stopped_by: Why it ended early.
    """

    search: Search | None = None
    default: ServingSetting | None = None
    published: ServingSetting | None = None
    finals: dict[Candidate, list[Reading]] = field(default_factory=dict)
    pick: Candidate | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    load: Load | None = None
    took_s: float = 0.0
    stopped_by: str = ""

    @property
    def any(self) -> bool:
        return self.search is not None and any(trial.readings for trial in self.search.trials.values())

    def final_trials(self) -> list[Trial]:
        """Return the candidates of the final comparison with their fresh readings only."""
        return [Trial(candidate, readings) for candidate, readings in self.finals.items()]
