"""What each process says of its own part of the load, and how the parts of several become one.

In      an `ArrivalQueue` (open loop), the process's CPU time, the lag of its event loop.
Out     `LoadRecord`, which ``load`` and ``client`` of report.json are made of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from measure.record.answer_checks import Cost
from measure.record.recorder import histogram


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
        """Return a value that msgpack carries."""
        cost = self.cost
        return {
            "numbers": [
                self.due,
                self.waited,
                self.unsent,
                self.offered_per_s,
                self.cpu_s,
                self.busiest,
                self.processes,
            ],
            "late": self.late.encode().decode("ascii"),
            "lag": self.lag.encode().decode("ascii"),
            "cost": [cost.count, cost.total_s, cost.squares, cost.client_s],
        }

    def add(self, encoded: dict[str, Any]) -> None:
        """Merge what another process encoded."""
        due, waited, unsent, offered, cpu_s, busiest, processes = encoded["numbers"]
        self.due += due
        self.waited += waited
        self.unsent += unsent
        self.offered_per_s += offered
        self.cpu_s += cpu_s
        self.busiest = max(self.busiest, busiest)
        self.processes += processes
        self.late.decode_and_add(encoded["late"].encode("ascii"))
        self.lag.decode_and_add(encoded["lag"].encode("ascii"))
        self.cost.merge(Cost(*encoded["cost"]))
