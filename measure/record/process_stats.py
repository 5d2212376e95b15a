"""What each process counts of its own part of the load, and how the parts of several become one.

In      an `ArrivalQueue` (open loop), the process's CPU time, the lag of its event loop.
Out     `LoadRecord`, which ``load`` and ``client`` of report.json are made of.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import Any

from measure.record.answer_checks import Cost
from measure.record.recorder import histogram

SUMS = ("due", "waited", "unsent", "offered_per_s", "cpu_s", "processes")


@dataclass
class LoadRecord:
    """Counts of one process, or of several.

    Attributes:
        due, waited, unsent: Requests of an open loop that became due; for which no connection was free; never sent.
        offered_per_s: Rate at which they became due.
        late: How late requests went out though a connection was free, in µs.
        lag: How late the event loop woke up, in µs.
        cost: Of checking.
        cpu_s, busiest: CPU seconds of all processes, and the largest share of a core that one of them used.
    """

    due: int = 0
    waited: int = 0
    unsent: int = 0
    offered_per_s: float = 0.0
    late: Any = field(default_factory=histogram)
    lag: Any = field(default_factory=histogram)
    cost: Cost = field(default_factory=Cost)
    cpu_s: float = 0.0
    busiest: float = 0.0
    processes: int = 0

    def encode(self) -> dict[str, Any]:
        sums, histograms = [getattr(self, name) for name in SUMS], [self.late, self.lag]
        encoded = [each.encode().decode("ascii") for each in histograms]
        return {"sums": sums, "busiest": self.busiest, "histograms": encoded, "cost": list(astuple(self.cost))}

    def add(self, encoded: dict[str, Any]) -> None:
        for name, value in zip(SUMS, encoded["sums"], strict=True):
            setattr(self, name, getattr(self, name) + value)
        self.busiest = max(self.busiest, encoded["busiest"])
        for each, part in zip((self.late, self.lag), encoded["histograms"], strict=True):
            each.decode_and_add(part.encode("ascii"))
        self.cost.merge(Cost(*encoded["cost"]))
