"""Find the setting with the most throughput within an SLO, in few measurements.

In      what may be chosen, a function that measures one candidate once, a budget.
Out     `Search`: every candidate that was tried, its readings and its result, and why the search stopped.

Hill climbing: first Triton's own defaults and the published setting, then along one axis after the other (requests in flight,
instances, batching, max batch) from the best so far, until no neighbour is better; instances also together with the requests
that fill them, because throughput is a ridge there: neither helps without the other. Where nothing meets the SLO, one request
in flight shows whether anything can. A candidate is measured once, and a second time only if it is not clearly worse. The remaining
time goes to those that may still be the best. "Clearly" is 99% confidence, with a scatter pooled over all candidates, because two
readings of one say nothing about it (`statistics.scatter`). The scatter starts from a guess, so a verdict must not be based on these
readings but on fresh ones.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from measure import statistics as stats
from measure.operating_point.setting import ServingSetting, preferable

BETTER = 0.01  # a step uphill gains at least this share: anything less is noise
READINGS, MAX_READINGS = 2, 8  # of a candidate that is not clearly worse; of one that may be the best
REFUSED = "refused by the server"
# why a candidate is measured: the best will be compared with it; the search tries it; one more reading; a start at the load of the best
START, NEW, AGAIN, SAME_LOAD = "start", "new", "again", "same load"
BATCHING, USERS, INSTANCES, MAX_BATCH = "batching", "users", "instances", "max batch"
WIDTH = "instances and users"  # one more instance shows nothing where its requests are taken from the others
# Requests in flight come first: instances and batching show what they are worth only with enough of them, and more instances
# can take more. Instances come before batching: a batcher, or none, that leads by luck may leave nothing for them to gain.
AXES = (USERS, INSTANCES, BATCHING, USERS, MAX_BATCH)


@dataclass(frozen=True)
class Candidate:
    """A setting of the server and a number of requests in flight."""

    setting: ServingSetting
    users: int

    @property
    def label(self) -> str:
        return f"{self.setting.label} · {self.users} in flight"


@dataclass(frozen=True)
class Reading:
    """One measurement: `latency_us` is the percentile that the SLO names, `largest_batch` what the server executed."""

    throughput_per_s: float
    latency_us: float
    healthy: bool
    largest_batch: int = 1
    detail: Any = None


@dataclass
class Trial:
    """A candidate, its readings and its result in words."""

    candidate: Candidate
    readings: list[Reading] = field(default_factory=list)
    result: str = ""
    refused: bool = False

    @property
    def healthy(self) -> bool:
        answered = all(r.healthy and r.throughput_per_s > 0 for r in self.readings)
        return bool(self.readings) and not self.refused and answered

    @property
    def rates(self) -> list[float]:
        return [reading.throughput_per_s for reading in self.readings]

    @property
    def throughput_per_s(self) -> float:
        return statistics.fmean(self.rates) if self.readings else 0.0

    @property
    def latency_us(self) -> float:
        return statistics.fmean(r.latency_us for r in self.readings) if self.readings else math.inf

    @property
    def largest_batch(self) -> int:
        return max((r.largest_batch for r in self.readings), default=0)


@dataclass(frozen=True)
class Space:
    """What may be chosen, each axis in order."""

    delays_us: tuple[int | None, ...]
    users: tuple[int, ...]
    instances: tuple[int, ...]
    max_batches: tuple[int, ...]

    def step(self, candidate: Candidate, axis: str, by: int) -> Candidate | None:
        """Return the candidate `by` steps along `axis`; None beyond its end or where it would change nothing."""
        along = {USERS: self._users, INSTANCES: self._instances, BATCHING: self._batching, MAX_BATCH: self._max_batch}
        return {**along, WIDTH: self._width}[axis](candidate, by)

    def _users(self, candidate: Candidate, by: int) -> Candidate | None:
        users = _neighbour(self.users, candidate.users, by)
        return None if users is None else replace(candidate, users=users)

    def _instances(self, candidate: Candidate, by: int) -> Candidate | None:
        count = _neighbour(self.instances, candidate.setting.instances, by)
        return None if count is None else replace(candidate, setting=replace(candidate.setting, instances=count))

    def _width(self, candidate: Candidate, by: int) -> Candidate | None:
        """More instances, the requests that fill them, and a batcher: without one more instances may gain nothing."""
        wider = self._instances(candidate, by)
        if wider is not None and candidate.setting.delay_us is None:
            wider = self._batching(wider, 1) or wider
        return None if wider is None else self._users(wider, by)

    def _max_batch(self, candidate: Candidate, by: int) -> Candidate | None:
        setting = candidate.setting
        size = None if setting.delay_us is None else _neighbour(self.max_batches, setting.max_batch, by)
        if size is None:
            return None
        kept = preferable(setting.preferred, size)
        return replace(candidate, setting=replace(setting, max_batch=size, preferred=kept))

    def _batching(self, candidate: Candidate, by: int) -> Candidate | None:
        setting = candidate.setting
        order = [-1 if delay is None else delay for delay in self.delays_us]
        delay = _neighbour(order, -1 if setting.delay_us is None else setting.delay_us, by)
        if delay is None:
            return None
        return replace(candidate, setting=replace(setting, delay_us=None if delay < 0 else delay, preferred=()))


def _neighbour(values: Sequence[int], now: int, by: int) -> int | None:
    order = sorted({*values, now})
    place = order.index(now) + by
    return order[place] if 0 <= place < len(order) else None


class BudgetSpentError(Exception):
    """No further measurement is allowed; its text says why."""


@dataclass
class Search:
    """The search and everything it measured.

    Attributes:
        limit_us: The SLO.
        measure: Measures a candidate once; None where the server refuses it.
        check_budget: Called with START, NEW, AGAIN or SAME_LOAD; raises `BudgetSpentError` where no such measurement may follow.
        on_reading: Called once a reading is kept, so that whatever was printed is in the report after Ctrl-C too.
    """

    space: Space
    limit_us: float
    measure: Callable[[Candidate], Reading | None]
    check_budget: Callable[[str], None]
    on_reading: Callable[[Candidate, Reading], None] = lambda *_: None
    trials: dict[Candidate, Trial] = field(default_factory=dict)
    stopped: str = ""

    def run(self, starts: Sequence[Candidate]) -> None:
        """Search from `starts`, the settings that the best is compared with in the end."""
        try:
            for kind in (START, AGAIN):
                for start in starts:
                    self._evaluate(start, kind)
            self._climb_and_race()
            self.stopped = "no neighbour of the best is better"
        except BudgetSpentError as spent:
            self.stopped = str(spent)
        for step in (self._race, lambda: self._match_load(starts)):
            try:
                step()
            except BudgetSpentError as spent:
                self.stopped += f"; {spent}" if str(spent) not in self.stopped else ""
        self.set_results(self.best.candidate if self.best else None)

    def _match_load(self, starts: Sequence[Candidate]) -> None:
        """Measure the starts with as many requests in flight as the best has, unless they would only queue beyond the SLO."""
        best = self.best
        for start in starts:
            trial = self.trials.get(start)
            if best is None or trial is None or not trial.healthy or start.users == best.candidate.users:
                continue
            candidate = replace(start, users=best.candidate.users)
            if candidate not in self.trials and candidate.users / trial.throughput_per_s * 1e6 < self.limit_us:
                self._evaluate(candidate, SAME_LOAD)

    @property
    def best(self) -> Trial | None:
        """Return the most throughput within the SLO; None where nothing meets it."""
        return max(filter(self.meets, self.trials.values()), key=lambda trial: trial.throughput_per_s, default=None)

    @property
    def nearest(self) -> Trial | None:
        healthy = [trial for trial in self.trials.values() if trial.healthy]
        return min(healthy, key=lambda trial: trial.latency_us, default=None)

    def meets(self, trial: Trial) -> bool:
        """Whether a trial answered correctly and within the SLO, by its mean."""
        return trial.healthy and trial.latency_us <= self.limit_us

    def _climb_and_race(self) -> None:
        """Climb; where more readings then put another candidate in the lead, climb from there."""
        leader = None
        while leader is not self._leader():
            self._climb_all()
            leader = self._leader()
            self._race()

    def _climb_all(self) -> None:
        stride = 2  # of the requests in flight, in powers of two; finer once the rest is found
        while True:
            before = self._leader()
            for axis in AXES:
                self._climb(axis, stride if axis == USERS else 1)
            if self._leader() is before and stride == 1:
                return
            stride = 1

    def _climb(self, axis: str, stride: int) -> None:
        """Step up, else down; where nothing meets the SLO, fewer requests in flight are the most likely to help."""
        if axis == USERS and self.best is None:
            self._evaluate(self._fewest())
        if axis == USERS and self.best is None:
            for by in (-stride, -1):  # down to a single one: more would only queue
                self._go(axis, by)
            return
        wide = axis == INSTANCES and self.best is not None and self._go(WIDTH, stride)
        if not (wide or self._go(axis, stride)):
            self._go(axis, -stride)

    def _fewest(self) -> Candidate:
        """Return the leader with the fewest requests in flight; a single one has nothing to wait for in a batcher."""
        setting, users = self._leader().candidate.setting, min(self.space.users)
        if users == 1 and setting.delay_us is not None:
            delay_us = min(self.space.delays_us, key=lambda delay: -1 if delay is None else delay)
            setting = replace(setting, delay_us=delay_us, preferred=())
        return Candidate(setting, users)

    @property
    def floor(self) -> Trial | None:
        """The trial with the fewest requests in flight and no time spent on batching; None where it was not tried."""
        return self.trials.get(self._fewest()) if self.nearest is not None else None

    def _go(self, axis: str, by: int) -> bool:
        """Step along an axis while that takes the lead; True where it did."""
        moved = False
        while self._try(axis, by):
            moved = True
        return moved

    def _try(self, axis: str, by: int) -> bool:
        """Evaluate the neighbour of the leader; True where it takes the lead."""
        leader = self._leader()
        candidate = self.space.step(leader.candidate, axis, by)
        if candidate is None or candidate in self.trials:
            return False
        if axis == MAX_BATCH and (by > 0 or leader.largest_batch <= candidate.setting.max_batch):
            return False  # a larger limit was tried on the way down; one above all executed batches changes nothing
        return self._better(self._evaluate(candidate), leader)

    def _leader(self) -> Trial:
        found = self.best or self.nearest
        if found is None:
            raise BudgetSpentError("no setting returned correct answers")
        return found

    def _better(self, trial: Trial, than: Trial) -> bool:
        if self.meets(trial) != self.meets(than):
            return self.meets(trial)
        if not trial.healthy:
            return False
        if self.meets(trial):
            return trial.throughput_per_s > than.throughput_per_s * (1 + BETTER)
        return trial.latency_us < than.latency_us * (1 - BETTER)

    def _evaluate(self, candidate: Candidate, kind: str = NEW) -> Trial:
        """Measure a candidate; a second time only if it is neither clearly worse nor clearly better."""
        leader, readings = self.best, READINGS if kind in (NEW, AGAIN) else 1
        trial = self.trials.get(candidate, Trial(candidate))
        while len(trial.readings) < readings and not trial.result and not self._clearly_better(trial, leader):
            self.check_budget(AGAIN if trial.readings else kind)
            self.trials[candidate] = trial
            self._read(trial)
        return trial

    def _clearly_better(self, trial: Trial, leader: Trial | None) -> bool:
        """Whether one reading is enough to go on from here; the race measures again."""
        if leader is None or not self.meets(trial):
            return False
        counts = [len(trial.readings), len(leader.readings)]
        ahead = math.log(trial.throughput_per_s / leader.throughput_per_s)
        within = math.log(self.limit_us / max(trial.latency_us, 1.0))
        return ahead > self._noise("throughput_per_s", counts) and within > self._noise("latency_us", counts[:1])

    def _read(self, trial: Trial) -> None:
        reading = self.measure(trial.candidate)
        if reading is None:
            trial.refused, trial.result = True, REFUSED
            return
        trial.readings.append(reading)
        self.on_reading(trial.candidate, reading)
        trial.result = self._clearly_worse(trial, self.best)

    def _clearly_worse(self, trial: Trial, best: Trial | None) -> str:
        """Return why a trial cannot be the best, or nothing."""
        if trial.refused:
            return REFUSED
        if not trial.readings:
            return "not measured"
        if not trial.healthy:
            return "requests failed or answers were wrong"
        over = math.log(max(trial.latency_us, 1.0) / self.limit_us)
        if over > self._noise("latency_us", [len(trial.readings)]):
            return f"clearly misses the SLO: {trial.latency_us / 1000:.2f} ms"
        if best is None or best is trial:
            return ""
        behind = math.log(best.throughput_per_s / trial.throughput_per_s)
        if behind > self._noise("throughput_per_s", [len(trial.readings), len(best.readings)]):
            return f"clearly slower: {trial.throughput_per_s / best.throughput_per_s - 1:+.0%} against {best.candidate.label}"
        return ""

    def _noise(self, what: str, counts: Sequence[int]) -> float:
        """Return how far two means of that many readings (or one mean) may differ by chance, as a logarithm."""
        groups = ([getattr(reading, what) for reading in trial.readings] for trial in self.trials.values())
        return stats.scatter(groups).reach(counts)

    def contenders(self) -> list[Trial]:
        """Return the trials that meet the SLO and are not clearly slower than the best."""
        return [each for each in self.trials.values() if self.meets(each) and not self._clearly_worse(each, self.best)]

    def _race(self) -> None:
        """Spend the remaining time on those that may still be the best."""
        while len(self.contenders()) > 1:
            left = [trial for trial in self.contenders() if len(trial.readings) < MAX_READINGS]
            if not left:
                return
            self.check_budget(AGAIN)
            self._read(min(left, key=lambda each: len(each.readings)))

    def set_results(self, pick: Candidate | None) -> None:
        """Say of every trial how it compares with the pick."""
        chosen = self.trials.get(pick) if pick is not None else None
        for trial in self.trials.values():
            why = self._clearly_worse(trial, chosen)
            if not why and not self.meets(trial):
                why = f"misses the SLO: {trial.latency_us / 1000:.2f} ms"
            met = "not clearly slower" if chosen else "met the SLO, but was not measured again"
            trial.result = "the pick" if trial is chosen else why or met
