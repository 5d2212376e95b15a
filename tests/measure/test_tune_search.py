"""The search of a tune, on simulated servers whose best setting is known."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from measure.operating_point.setting import ServingSetting
from measure.tune.search import MAX_BATCH, NEW, SAME_LOAD, START, BudgetSpentError, Candidate, Reading, Search, Space

SPACE = Space((None, 0, 500, 2000), tuple(1 << power for power in range(9)), (1, 2, 4), (32, 16, 8))
DEFAULT, PUBLISHED = ServingSetting(1, 32, None), ServingSetting(1, 32, 500)
STARTS = [Candidate(DEFAULT, 8), Candidate(PUBLISHED, 8)]
World = Callable[[Candidate], tuple[float, float, int]]


def server(execution_ms: float, item_ms: float, cores: float) -> World:
    """Executions cost a fixed time and a time per sample; batches are as large as what waits; latency follows Little's law."""

    def ask(candidate: Candidate) -> tuple[float, float, int]:
        setting = candidate.setting
        waiting = max(1.0, candidate.users / setting.instances)
        batch = 1.0 if setting.delay_us is None else min(setting.max_batch, waiting)
        running = min(setting.instances, cores, candidate.users)
        delay_ms = 0.0 if setting.delay_us is None or batch >= setting.max_batch else setting.delay_us / 1000
        each_ms = execution_ms + item_ms * batch + delay_ms
        rate = min(running * batch / each_ms * 1000, candidate.users / each_ms * 1000)
        return rate, candidate.users / rate * 1e6 * 1.3, int(batch)

    return ask


def search(world: World, limit_us: float, points: int = 12, noise: float = 0.02, seed: int = 1, most: int = 40) -> tuple[Search, int]:  # fmt: skip
    dice, count = random.Random(seed), itertools.count(1)
    measured = 0

    def measure(candidate: Candidate) -> Reading:
        nonlocal measured
        measured = next(count)
        rate, latency_us, batch = world(candidate)
        factor = dice.gauss(1, noise)
        return Reading(rate * factor, latency_us / factor, True, batch)

    def allowed(kind: str) -> None:
        if kind in (NEW, SAME_LOAD) and len(found.trials) >= points - 2 * (kind == NEW):
            raise BudgetSpentError(f"{points} points")
        if measured >= most - 2 * (kind != SAME_LOAD):
            raise BudgetSpentError("time")

    found = Search(SPACE, limit_us, measure, allowed)
    found.run(STARTS)
    return found, measured


def best_of(world: World, limit_us: float) -> float:
    rates = []
    for delay, users, count, size in itertools.product(
        SPACE.delays_us, SPACE.users, SPACE.instances, SPACE.max_batches
    ):
        rate, latency_us, _ = world(Candidate(ServingSetting(count, size, delay), users))
        if latency_us <= limit_us:
            rates.append(rate)
    return max(rates, default=0.0)


@pytest.mark.parametrize(
    ("world", "limit_us"),
    [
        (server(1.0, 0.05, 2), 250_000),  # batching is everything
        (server(0.2, 60.0, 2), 10_000_000),  # nothing helps much: one sample is all the work
        (server(5.0, 0.5, 4), 60_000),
        (server(1.0, 0.05, 2), 15_000),  # the SLO holds the requests in flight down
    ],
    ids=["batching", "heavy", "mixed", "tight"],
)
def test_the_best_of_the_whole_grid_is_nearly_found_in_twelve_points(world: World, limit_us: float) -> None:
    found = [search(world, limit_us, seed=seed)[0] for seed in range(5)]
    picks = [each.best.candidate for each in found if each.best]
    assert len(picks) == 5
    assert all(len(each.trials) <= 12 for each in found)
    shares = sorted(world(pick)[0] / best_of(world, limit_us) for pick in picks)
    assert shares[2] > 0.95, shares


def ridge(candidate: Candidate) -> tuple[float, float, int]:
    """Each instance copies so much and each client sends so much (ResNet-50 on an H100, eight pictures a request)."""
    setting = candidate.setting
    most = 9_900 if setting.delay_us is None else 17_500
    rate = min(4_900 * setting.instances, 1_150 * candidate.users, most)
    return rate, candidate.users * 8 / rate * 1.4e6, min(32, candidate.users)


@pytest.mark.parametrize("seed", range(20))
def test_instances_that_help_only_with_more_requests_in_flight_are_found(seed: int) -> None:
    found, _ = search(ridge, 50_000, points=16, noise=0.08, seed=seed, most=20)
    assert found.best is not None
    assert ridge(found.best.candidate)[0] >= 0.98 * best_of(ridge, 50_000)


def test_what_is_clearly_worse_is_measured_once() -> None:
    found, _ = search(server(1.0, 0.05, 2), 250_000, noise=0.001)
    dropped = [trial for trial in found.trials.values() if trial.result.startswith("clearly slower")]
    assert dropped
    assert any(len(trial.readings) == 1 for trial in dropped)
    assert all("%" in trial.result for trial in dropped)


def test_an_unreachable_slo_leaves_no_best_but_the_nearest() -> None:
    world = server(5.0, 0.5, 2)
    found, _ = search(world, 1000.0)
    assert found.best is None
    assert found.nearest is not None
    assert found.nearest.candidate.users == 1, "fewer requests in flight is what helps"
    assert all("misses the SLO" in trial.result for trial in found.trials.values())


def waits_for_others(candidate: Candidate) -> tuple[float, float, int]:
    """A batcher's delay is worth it with many in flight, and all that a single one gets from it is the wait."""
    delay_us = candidate.setting.delay_us or 0
    if candidate.users == 1:
        return 1e6 / (900 + delay_us), 900.0 + delay_us, 1
    rate = 4000.0 if delay_us else 1000.0
    return rate, candidate.users / rate * 1e6, 8 if delay_us else 1


@pytest.mark.parametrize("limit_us", [1000.0, 800.0], ids=["kept", "missed"])
def test_one_in_flight_is_the_first_thing_tried_where_the_starts_miss_the_slo(limit_us: float) -> None:
    found, _ = search(waits_for_others, limit_us, points=5, noise=0.001)
    third = list(found.trials)[2]
    assert third == Candidate(DEFAULT, 1), "without the delay, in which a single request waits in vain"
    assert (found.best is not None) == (limit_us == 1000.0)
    assert found.floor is not None


def test_the_starts_are_compared_at_the_load_of_the_best() -> None:
    found, _ = search(server(1.0, 0.05, 2), 10_000_000)
    assert found.best is not None
    users = found.best.candidate.users
    assert users > 8
    assert Candidate(DEFAULT, users) in found.trials
    assert Candidate(PUBLISHED, users) in found.trials


def test_the_search_ends_when_the_time_is_used() -> None:
    found, measured = search(server(1.0, 0.05, 2), 250_000, most=5)
    assert measured == 3, "two are kept for the starts at the load of the best, which is theirs here"
    assert "time" in found.stopped
    assert found.best is not None


def test_both_starts_are_measured_however_little_is_allowed() -> None:
    def allowed(kind: str) -> None:
        if kind != START:
            raise BudgetSpentError("nothing more")

    found = Search(SPACE, 250_000, lambda candidate: Reading(100.0, 1000.0, True), allowed)
    found.run(STARTS)
    assert [len(found.trials[start].readings) for start in STARTS] == [1, 1]


def test_a_preferred_size_that_is_the_whole_batch_is_none() -> None:
    candidate = Candidate(ServingSetting(1, 16, 500, (4, 8)), 8)
    stepped = Space((None, 500), (8,), (1,), (16, 8)).step(candidate, MAX_BATCH, -1)
    assert stepped is not None
    assert stepped.setting.preferred == (4, 8)
    alone = Space((None, 500), (8,), (1,), (16, 8)).step(Candidate(ServingSetting(1, 16, 500, (8,)), 8), MAX_BATCH, -1)
    assert alone is not None
    assert alone.setting.preferred == ()


def test_refused_and_failing_settings_are_reported_and_never_picked() -> None:
    world = server(1.0, 0.05, 2)

    def measure(candidate: Candidate) -> Reading | None:
        if candidate.setting.instances > 1:
            return None
        rate, latency_us, _ = world(candidate)
        return Reading(rate, latency_us, candidate.setting.delay_us != 0)

    found = Search(SPACE, 250_000, measure, lambda kind: None)
    found.run(STARTS)
    assert found.best is not None
    assert found.best.candidate.setting.instances == 1
    assert found.best.candidate.setting.delay_us != 0
    results = {trial.result for trial in found.trials.values()}
    assert "refused by the server" in results
    assert "requests failed or answers were wrong" in results


def test_a_server_that_fails_everything_stops_the_search() -> None:
    found = Search(SPACE, 250_000, lambda candidate: Reading(0.0, 0.0, False), lambda kind: None)
    found.run(STARTS)
    assert (found.best, found.nearest) == (None, None)
    assert found.stopped == "no setting returned correct answers"
    assert len(found.trials) == 2
