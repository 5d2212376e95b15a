"""tune: the setting with the most throughput within an SLO.

In      a published model; an SLO; how much may be measured.
Out     what was tried and why it stopped, a verdict over Triton's default settings, the budget of cores and memory, a
        report with a plot; with ``--write`` the setting in config.yaml.

The search (`search`) chooses by few and short measurements, so its best figure is flattered by luck. Therefore the
verdict comes from fresh ones: the pick, Triton's defaults and the published setting, interleaved; a pick that misses the SLO
there is none. Triton's defaults are what Triton itself makes of a config that says nothing about instances and batching, read
from the server.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clients import published
from measure import statistics
from measure.operating_point import flags
from measure.operating_point import setting as point_setting
from measure.operating_point.measurement import Load, Measured, measure
from measure.operating_point.rows import seconds_in_words
from measure.operating_point.server import Bench, bench, published_setting
from measure.operating_point.setting import Setting
from measure.operating_point.usage import first_gpu
from measure.tune import report as tune_report
from measure.tune import slo as tune_slo
from measure.tune import write_config
from measure.tune.search import FAIR, FIRST, NEW, Candidate, Reading, Search, Space, SpentError, Trial
from planwright import console
from planwright.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, Fault, PlanwrightError, SpecError, StageError

DELAYS_US: tuple[int | None, ...] = (None, 0, 500, 2000)
FIRST_USERS, MOST_USERS = 8, 256
ENOUGH_REQUESTS, LONGER = (
    100,
    3.0,
)  # requests that a measurement should hold, and how much longer it may become for them
LEAST_REPEATS = 2  # of the final comparison: one reading a side compares nothing


@dataclass
class Session:
    """One tune: what it may use, what it measured."""

    args: argparse.Namespace
    served: Bench
    slo: tune_slo.Slo
    load: Load
    scratch: Path
    began_s: float = field(default_factory=time.monotonic)
    took_s: list[float] = field(default_factory=list)
    points: int = 0
    arms: int = 2
    final: bool = False
    search: Search | None = None

    def __post_init__(self) -> None:
        self.gpu = first_gpu()

    @property
    def each_s(self) -> float:
        """Return how long a measurement takes, all in all."""
        return sum(self.took_s) / len(self.took_s) if self.took_s else self.load.duration_s + self.load.warmup_s + 3.0

    @property
    def left_s(self) -> float:
        """Return what is left of the time."""
        return float(self.args.minutes) * 60 - (time.monotonic() - self.began_s)

    def allowed(self, kind: str) -> None:
        """Raise `SpentError` where no measurement of that kind may follow; what the pick is compared with always is measured.

        Points and time are kept for a comparison with a pick. While nothing keeps the SLO, only what is due at the least if the
        next candidate does.
        """
        if kind == FIRST:
            return
        found = self.search is not None and self.search.best is not None
        kept_points = self.arms - 1 if found else 0  # what the pick is compared with, at its requests in flight
        if kind in (NEW, FAIR) and self.points >= self.args.points:
            raise SpentError(f"that is all of the {console.many(self.args.points, 'point')} allowed")
        if kind == NEW and self.points >= self.args.points - kept_points:
            raise SpentError(f"{kept_points} of the {self.args.points} points allowed are kept for the comparison")
        repeats = self.args.repeats if found else min(self.args.repeats, LEAST_REPEATS)
        kept = self.arms * repeats + (0 if kind == FAIR else kept_points)
        if self.left_s < self.each_s * (1 + kept):
            why = "is kept for the final comparison" if found else "is too short for another point and its comparison"
            raise SpentError(f"the rest of the {self.args.minutes:g} min {why}")

    def measure(self, candidate: Candidate) -> Reading | None:
        """Measure once; None where the server refuses the setting."""
        started_s = time.monotonic()
        try:
            self.served.set(candidate.setting)
        except StageError as error:
            console.say(f"{candidate.label}: {error.faults[0].what}: {error.faults[0].why}")
            return None
        load = replace(self.load, users=candidate.users)
        found = measure(self.served, load, self.args.repository, self.scratch, self.gpu)
        self._lengthen(found)
        self.took_s.append(time.monotonic() - started_s)
        return Reading(
            found.throughput_per_s, found.latency_us.get(self.slo.percentile, 0.0), not found.failures and found.requests > 0,
            max((size for size, _ in found.batches), default=1), found,
        )  # fmt: skip

    def _lengthen(self, found: Measured) -> None:
        """Measure a slow model for longer, once: a 99th percentile of a few requests is none."""
        if self.took_s or not found.requests:
            return
        needed_s = self.load.duration_s * ENOUGH_REQUESTS / found.requests
        longer_s = math.ceil(min(max(needed_s, self.load.duration_s), self.load.duration_s * LONGER))
        self.load = replace(self.load, duration_s=max(self.load.duration_s, float(longer_s)))

    def say(self, candidate: Candidate, reading: Reading) -> None:
        """Tell a reading that is kept."""
        step = "final" if self.final else f"{len(self.took_s)}"
        ok = "" if reading.latency_us <= self.slo.limit_us else " (misses the SLO)"
        console.say(f"{step}  {candidate.label}: {reading.throughput_per_s:.0f} infer/sec, {self.slo.percentile} "
                    f"{reading.latency_us / 1000:.2f} ms{ok}; {seconds_in_words(self.left_s)} left")  # fmt: skip


@dataclass
class Outcome:
    """What a tune found.

    Attributes:
        search: All that was tried.
        default, published: The settings that the pick is compared with.
        finals: Candidate → fresh readings, of the pick and of those two.
        pick: The best candidate that met the SLO in fresh readings; None where nothing does.
        stopped_by: Why it ended early.
    """

    search: Search | None = None
    default: Setting | None = None
    published: Setting | None = None
    finals: dict[Candidate, list[Reading]] = field(default_factory=dict)
    pick: Candidate | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    load: Load | None = None
    took_s: float = 0.0
    stopped_by: str = ""

    @property
    def any(self) -> bool:
        """Say whether there is anything to report."""
        return self.search is not None and any(trial.readings for trial in self.search.trials.values())


def main(args: argparse.Namespace) -> int:
    """Run the tune; returns the exit code."""
    args.repository = flags.repository(args)
    published.select(args.repository, [args.model])
    version = published.served(args.repository, args.model)
    build = version.build if version else {}
    slo = tune_slo.parse(args.slo) if args.slo else tune_slo.of_model(args.repository / args.model, build)
    _check(args, published_setting(args.repository, args.model), build)
    if args.write:
        write_config.check(args.config, args.model, build.get("target", "onnxruntime"))
    outcome, problem = Outcome(), None
    try:
        run(args, slo, outcome)
    except PlanwrightError as error:
        if not outcome.any:
            raise
        problem, outcome.stopped_by = error, error.faults[0].what
    except KeyboardInterrupt:
        if not outcome.any:
            raise
        outcome.stopped_by = tune_report.STOPPED
    report = tune_report.save(args, slo, outcome, build)
    if problem is not None:
        raise problem
    if outcome.stopped_by:
        return EXIT_INTERRUPTED
    if report["verdict"]["status"] == "fail":
        return EXIT_FAILED
    if args.write:
        _write(args, outcome, report, build)
    return EXIT_OK


def _write(args: argparse.Namespace, outcome: Outcome, report: dict[str, Any], build: dict[str, Any]) -> None:
    """Write what is surely better than what is published, or keeps the SLO that this misses."""
    over = report["against"]["published"]
    if outcome.pick is None or over is None or (over["verdict"] != statistics.MORE and over.get("within", True)):
        console.say(f"no sure gain over the published setting: {args.config} stays as it is")
        return
    write_config.write(args.config, args.model, build.get("target", "onnxruntime"), outcome.pick.setting)


def run(args: argparse.Namespace, slo: tune_slo.Slo, outcome: Outcome) -> None:
    """Search and compare; what was found before an error or Ctrl-C stands in `outcome`."""
    with tempfile.TemporaryDirectory(prefix="planwright-tune-") as name:
        scratch = Path(name)
        with bench(args.repository, args.model, scratch, args.server) as served:
            load = Load(FIRST_USERS, args.protocol, args.batch, args.duration_s, args.warmup_s, args.processes)
            session = Session(args, served, slo, load, scratch)
            outcome.identity, outcome.published, outcome.default = (
                served.identity,
                served.published,
                served.learn_untuned(),
            )
            console.say(
                f"SLO {slo.text}; at most {args.points} points and {args.minutes:g} min; Triton's defaults: {outcome.default.label}"
            )
            try:
                _search(session, outcome)
                _compare(session, outcome)
            finally:
                if outcome.search is not None:
                    _note_fates(outcome.search, outcome)
                outcome.load, outcome.took_s = session.load, time.monotonic() - session.began_s


def _search(session: Session, outcome: Outcome) -> None:
    assert outcome.default is not None
    assert outcome.published is not None
    space = space_of(session.args, outcome.published, outcome.default)

    def counted(candidate: Candidate) -> Reading | None:
        session.points = len(search.trials)
        return session.measure(candidate)

    search = outcome.search = session.search = Search(
        space, session.slo.limit_us, counted, session.allowed, session.say
    )
    users = min(space.users, key=lambda count: abs(math.log(count / FIRST_USERS)))
    starts = list(dict.fromkeys((Candidate(outcome.default, users), Candidate(outcome.published, users))))
    session.arms = len(starts) + 1
    search.run(starts)
    outcome.pick = search.best.candidate if search.best else None


def space_of(args: argparse.Namespace, published: Setting, default: Setting) -> Space:
    """Return what may be chosen; what was not given on the command line follows the machine and the model."""
    cores = tune_report.cores()
    counts = args.instances or tuple(count for count in (1, 2, 4, 8) if count <= max(2, 2 * cores))
    top = published.max_batch
    sizes = args.max_batch or tuple(size for size in (top, top // 2, top // 4) if size >= max(args.batch, 1))
    delays = args.queue_delay_us or (DELAYS_US if top > 1 and not published.sequences else (None,))
    most = min(MOST_USERS, 2 * max(counts) * max(top, 1))
    users = args.users or tuple(1 << power for power in range(9) if 1 << power <= max(most, FIRST_USERS))
    return Space(delays, users, counts, sizes or (top,))


def _compare(session: Session, outcome: Outcome) -> None:
    """Measure the pick, Triton's defaults and the published setting again, interleaved.

    A pick that now misses the SLO was flattered by luck: the next best of all readings together follows, while there is time. In
    the end the pick is one that met the SLO in fresh readings, or there is none.
    """
    search, tried = outcome.search, set[Candidate]()
    session.final = True
    while search is not None and outcome.pick is not None and outcome.pick not in tried:
        tried.add(outcome.pick)
        best = [outcome.pick, *(_best_of(search, setting) for setting in (outcome.default, outcome.published))]
        _interleave(session, outcome, [candidate for candidate in dict.fromkeys(best) if candidate is not None])
        fresh = Trial(outcome.pick, outcome.finals[outcome.pick])
        if search.meets(fresh) or search.best is None or session.left_s < session.each_s * 2 * session.arms:
            break
        outcome.pick = search.best.candidate
    if search is not None and outcome.pick is not None:
        outcome.pick = _kept(search, outcome)


def _kept(search: Search, outcome: Outcome) -> Candidate | None:
    """Return the pick where its fresh readings meet the SLO and none is surely faster, else the fastest that meets it."""
    fresh = [Trial(candidate, readings) for candidate, readings in outcome.finals.items()]
    meeting = [trial for trial in fresh if search.meets(trial)]
    pick = next((trial for trial in meeting if trial.candidate == outcome.pick), None)
    if pick is not None:
        faster = [each for each in meeting if statistics.verdict(each.rates, pick.rates) == statistics.LESS]
        meeting = faster or [pick]
    return max(meeting, key=lambda trial: trial.throughput_per_s).candidate if meeting else None


def _note_fates(search: Search, outcome: Outcome) -> None:
    """Note of every point what became of it; where it was measured again, that alone counts, in the verdict's own words."""
    search.tell_fates(outcome.pick)
    pick = Trial(outcome.pick, outcome.finals.get(outcome.pick, [])) if outcome.pick else None
    for candidate, readings in outcome.finals.items():
        if readings and candidate != outcome.pick:
            search.trials[candidate].fate = _measured_again(search, Trial(candidate, readings), pick)


def _measured_again(search: Search, trial: Trial, pick: Trial | None) -> str:
    if not trial.healthy:
        return "requests failed or answers were wrong when it was measured again"
    if not search.meets(trial):
        return f"missed the SLO when it was measured again: {trial.latency_us / 1000:.2f} ms"
    if pick is None:
        return "kept the SLO when it was measured again"
    return f"measured again; the pick over it: {statistics.compare(trial.rates, pick.rates)}"


def _interleave(session: Session, outcome: Outcome, arms: list[Candidate]) -> None:
    fitting = int(session.left_s / (session.each_s * len(arms)))
    for repeat in range(min(session.args.repeats, max(2, fitting))):
        for candidate in arms if repeat % 2 == 0 else reversed(arms):
            found, reading = outcome.finals.setdefault(candidate, []), session.measure(candidate)
            if reading is not None and outcome.search is not None:
                found.append(reading)
                outcome.search.trials[candidate].readings.append(reading)
                session.say(candidate, reading)


def _best_of(search: Search, setting: Setting | None) -> Candidate | None:
    """Return the trial of a setting with the most throughput within the SLO, else the nearest to it."""
    trials = [trial for trial in search.trials.values() if trial.candidate.setting == setting and trial.readings]
    within = [trial for trial in trials if search.meets(trial)]
    if within:
        return max(within, key=lambda trial: trial.throughput_per_s).candidate
    return min(trials, key=lambda trial: trial.latency_us).candidate if trials else None


def _check(args: argparse.Namespace, base: Setting, build: dict[str, Any]) -> None:
    """Refuse a bad command line before a server is started."""
    flags.check_load(args)
    faults = []
    if args.points < 2:
        faults.append(
            Fault(
                f"--points {args.points}", why="two are Triton's defaults and the published setting", fix="--points 12"
            )
        )
    if not 0 < args.minutes <= 24 * 60:
        faults.append(Fault(f"--minutes {args.minutes:g}", fix="give a number above 0, up to a day"))
    if faults:
        raise SpecError(*faults)
    settings = point_setting.grid(base, args.instances, args.max_batch, args.queue_delay_us)
    point_setting.check(settings, base, build, args.batch)
