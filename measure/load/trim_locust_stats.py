"""Keep locust's own counts per second from growing with the length of a run.

In      locust's statistics.
Out     the same without seconds that are not read any more.

locust notes the requests of each second for good, about a hundred bytes a second and row. It reads the last twelve to show the
present rate; rates over the whole run come from its totals, which stay.
"""

from __future__ import annotations

from typing import Any

KEPT_S, EVERY_S = 60, 30


def prune(stats: Any) -> None:
    """Drop the seconds that lie further back than `KEPT_S`."""
    for entry in [stats.total, *stats.entries.values()]:
        for counts in (entry.num_reqs_per_sec, entry.num_fail_per_sec):
            newest = max(counts, default=0)
            for second in [second for second in counts if second < newest - KEPT_S]:
                del counts[second]


def prune_periodically(stats: Any) -> None:
    """Call `prune` every `EVERY_S`; a greenlet that the run kills."""
    import gevent

    while True:
        gevent.sleep(EVERY_S)
        prune(stats)
