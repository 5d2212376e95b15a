"""What each process says of its own part of the load, and how the parts of several become one.

In      a `Feed` (open loop), the process's CPU time, the lag of its event loop.
Out     ``load`` and ``client`` of report.json.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from measure.record.answer_checks import Cost
from measure.record.recorder import histogram

PERCENTILES = (50, 99)


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

    def load(self, arrivals: str, rate: str, asked_per_s: float, scenario: str) -> dict[str, Any]:
        """Return report.json's ``load``."""
        return {
            "scenario": scenario, "arrivals": arrivals, "rate": rate, "asked_per_s": round(asked_per_s, 3),
            "offered_per_s": round(self.offered_per_s, 3), "due": self.due, "waited": self.waited, "unsent": self.unsent,
            "late_us": _figures(self.late),
        }  # fmt: skip

    def client(self, *, automatic: bool = False) -> dict[str, Any]:
        """Return report.json's ``client``.

        ``cpu_share`` is that of the busiest process; `automatic` is True where the share of answers to check follows the budget.
        """
        share, low, high = self.cost.share()
        return {
            "cpu_s": round(self.cpu_s, 3), "cpu_share": round(self.busiest, 4), "processes": self.processes, "loop_lag_us": _figures(self.lag),
            "checking": {"count": self.cost.count, "share": round(share, 5), "low": round(low, 5), "high": round(high, 5), "automatic": automatic},
        }  # fmt: skip


def _figures(found: Any) -> dict[str, float]:
    if not found.get_total_count():
        return {**{f"p{p}": 0.0 for p in PERCENTILES}, "max": 0.0}
    return {
        **{f"p{p}": float(found.get_value_at_percentile(p)) for p in PERCENTILES},
        "max": float(found.get_max_value()),
    }
