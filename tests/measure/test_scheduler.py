"""Hand-over of an open loop's arrivals, above all at the moment when a run ends; a real clock and a real event loop, no server."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import gevent
import pytest

from measure.load.scheduler import ArrivalQueue, clock
from measure.workload.arrivals import Arrival


def every(gap_s: float) -> Iterator[Arrival]:
    return (Arrival(number * gap_s, "m") for number in itertools.count())


def started(
    arrivals: Iterator[Arrival], users: int, service_s: float
) -> tuple[ArrivalQueue, list[float], list[gevent.Greenlet]]:
    """A feed with users that take `service_s` for each request, the moments of what they took, and the users."""
    feed, taken = ArrivalQueue(arrivals, ["m"]), list[float]()

    def use() -> None:
        while (arrival := feed.take(["m"])) is not None:
            taken.append(arrival.due_s)
            gevent.sleep(service_s)

    greenlets = [gevent.spawn(use) for _ in range(users)]
    gevent.sleep(0)
    feed.begin(clock())
    return feed, taken, greenlets


def test_what_falls_due_while_the_run_ends_is_not_held_against_it() -> None:
    feed, taken, users = started(every(0.002), 4, 0.001)
    gevent.sleep(0.3)
    before = clock()
    time.sleep(0.05)  # the event loop is held up, as by locust when it begins to stop: some 25 arrivals are not seen
    ended = feed.end(1.0)
    gevent.joinall(users, timeout=2, raise_error=True)
    assert before - 0.005 < ended < before + 0.005, "the load ended where the loop last looked"
    assert feed.due == len(taken)
    assert (feed.left, feed.unsent) == (0, 0)


def test_what_waits_for_a_connection_at_the_end_is_still_sent() -> None:
    feed, taken, users = started(every(0.002), 1, 0.004)
    gevent.sleep(0.3)
    feed.end(5.0)
    waiting = feed.left
    assert waiting > 20, "one user, half as fast as the arrivals"
    gevent.joinall(users, timeout=5, raise_error=True)
    assert len(taken) == feed.due
    assert (feed.left, feed.unsent) == (0, 0)
    assert taken == sorted(taken)


def test_what_a_server_that_does_not_keep_up_leaves_was_never_sent() -> None:
    feed, taken, users = started(every(0.0005), 1, 0.02)
    gevent.sleep(0.3)
    feed.end(0.1)
    assert feed.unsent == 0, "there is still time to send it"
    gevent.joinall(users, timeout=5, raise_error=True)
    assert feed.unsent == feed.left == feed.due - len(taken) > 200


@pytest.mark.parametrize("users", [1, 3])
def test_every_arrival_of_a_profile_is_handed_out_once(users: int) -> None:
    feed, taken, greenlets = started(itertools.islice(every(0.001), 200), users, 0.002)
    gevent.joinall(greenlets, timeout=5, raise_error=True)
    assert len(taken) == len(set(taken)) == feed.due == 200
    assert feed.finished


def test_users_that_take_turns_do_not_fall_into_step_with_models_that_do() -> None:
    """Two models in turn, two users in turn: without more, each user would get one model alone."""
    arrivals = (Arrival(number * 0.004, "ab"[number % 2]) for number in range(80))
    feed, had = ArrivalQueue(arrivals, ["a", "b"]), list[tuple[str, str]]()

    def use(kind: str) -> None:
        while (arrival := feed.take(["a", "b"], kind)) is not None:
            had.append((arrival.model, kind))

    users = [gevent.spawn(use, kind) for kind in ("http", "grpc")]
    gevent.sleep(0)
    feed.begin(clock())
    gevent.joinall(users, timeout=5, raise_error=True)
    counts = {pair: had.count(pair) for pair in set(had)}
    assert len(counts) == 4
    assert sum(counts.values()) == 80
    assert min(counts.values()) >= 15, counts
