"""Answers and latencies over time, in a bounded number of rows.

In      one call per answer or failure, with the second in which it came.
Out     rows ``t_s, width_s, answers, failures, p50_us, p99_us``.

A run of any length fits into `MOST_ROWS` rows: when they are full, two neighbours become one and rows are twice as wide from then
on. Within a row, latencies are kept in two digits: they are for a plot, exact percentiles come from the whole run's histogram.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

MOST_ROWS = 600


class Series:
    def __init__(self, width_s: int = 1) -> None:
        self.width_s = width_s
        self._rows: dict[int, Counter[int]] = {}
        self._failed: Counter[int] = Counter()

    def answered(self, second: int, latency_us: float) -> None:
        index = self._index(second)
        row = self._rows.get(index)
        if row is None:
            row = self._rows[index] = Counter()
        row[two_digits(latency_us)] += 1

    def failed(self, second: int) -> None:
        index = self._index(second)  # first: it may widen the rows, and with them replace the counter
        self._failed[index] += 1

    def add(self, other: Series) -> None:
        """Merge the rows of another process; both get the width of the wider."""
        while other.width_s < self.width_s:
            other._widen()
        while self.width_s < other.width_s:
            self._widen()
        for index, row in other._rows.items():
            self._rows.setdefault(index, Counter()).update(row)
        self._failed.update(other._failed)
        while max([*self._rows, *self._failed], default=0) >= MOST_ROWS:
            self._widen()

    def encode(self) -> dict[str, Any]:
        return {
            "width_s": self.width_s,
            "rows": {str(index): {str(us): n for us, n in row.items()} for index, row in self._rows.items()},
            "failed": {str(index): n for index, n in self._failed.items()},
        }

    @classmethod
    def decode(cls, encoded: dict[str, Any]) -> Series:
        series = cls(int(encoded["width_s"]))
        for index, row in encoded["rows"].items():
            series._rows[int(index)] = Counter({int(us): n for us, n in row.items()})
        series._failed = Counter({int(index): n for index, n in encoded["failed"].items()})
        return series

    def as_rows(self) -> list[dict[str, float]]:
        """Return the rows in order, those without any answer included."""
        last = max([*self._rows, *self._failed], default=-1)
        return [self._row(index) for index in range(last + 1)]

    def _row(self, index: int) -> dict[str, float]:
        ordered = sorted(self._rows.get(index, Counter()).items())
        return {
            "t_s": index * self.width_s,
            "width_s": self.width_s,
            "answers": sum(count for _, count in ordered),
            "failures": self._failed[index],
            "p50_us": _share(ordered, 0.5),
            "p99_us": _share(ordered, 0.99),
        }

    def _index(self, second: int) -> int:
        while second // self.width_s >= MOST_ROWS:
            self._widen()
        return second // self.width_s

    def _widen(self) -> None:
        self.width_s *= 2
        rows, self._rows = self._rows, {}
        for index, row in rows.items():
            self._rows.setdefault(index // 2, Counter()).update(row)
        failed, self._failed = self._failed, Counter()
        for index, count in failed.items():
            self._failed[index // 2] += count


def two_digits(us: float) -> int:
    """Round to two significant digits.

    Example:
        >>> two_digits(1234.6), two_digits(87.3)
        (1200, 87)
    """
    whole = round(us)
    digits = len(str(whole)) - 2
    return round(whole, -digits) if digits > 0 else max(whole, 1)


def _share(ordered: list[tuple[int, int]], share: float) -> float:
    need, seen = share * sum(count for _, count in ordered), 0
    for value, count in ordered:
        seen += count
        if seen >= need and count:
            return float(value)
    return 0.0
