"""tune: the setting with the most throughput within an SLO.

In      a published model; an SLO; a budget of points and minutes.
Out     every setting that was tried and why the search stopped, a verdict against Triton's default settings, the cost in cores and
        memory, a report with a plot; with ``--write`` the setting in config.yaml.

The search (`search`) chooses by few and short measurements, so its best figure is biased upwards: the largest of many noisy readings.
The verdict therefore comes from fresh ones: the pick, Triton's defaults and the published setting, interleaved; a pick that misses the
SLO there is rejected. Triton's defaults are what Triton itself chooses for a config without instances and batching, read from the server.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clients import published
from measure import statistics
from measure.operating_point import flags
from measure.operating_point import setting as serving_setting
from measure.operating_point.measurement import Load, Measurement, interleaved, measure
from measure.operating_point.rows import INTERRUPTED, seconds_in_words
from measure.operating_point.server import ConfigurableModel, open_model, published_setting
from measure.operating_point.setting import ServingSetting
from measure.operating_point.usage import first_gpu
from measure.report.build import build_of
from measure.tune import report as tune_report
from measure.tune import slo as tune_slo
from measure.tune.report import TuneOutcome
from measure.tune.search import NEW, SAME_LOAD, START, BudgetSpentError, Candidate, Reading, Search, Space, Trial
from planwright import console
from planwright.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, Fault, PlanwrightError, SpecError, StageError

DELAYS_US: tuple[int | None, ...] = (None, 0, 500, 2000)
FIRST_USERS, MOST_USERS = 8, 256
ENOUGH_REQUESTS, LONGER = 100, 3.0  # requests a measurement should hold, and how much longer it may become for them
LEAST_REPEATS = 2  # of the final comparison: one reading a side compares nothing


def add_command(commands: Any) -> None:
    parser = commands.add_parser("tune", help="find the setting with the most throughput within an SLO")
    parser.add_argument("model", metavar="MODEL")
    flags.add_tune(parser)
    parser.set_defaults(main=main)


@dataclass
class Tuner:
    """Measures candidates of one tune within its budget.

    Attributes:
        took_s: Length of each measurement so far.
        compared: Candidates in the final comparison.
        final: Whether that comparison has begun.
    """

    args: argparse.Namespace
    served: ConfigurableModel
    slo: tune_slo.Slo
    load: Load
    scratch: Path
    began_s: float = field(default_factory=time.monotonic)
    took_s: list[float] = field(default_factory=list)
    compared: int = 2
    final: bool = False
    search: Search | None = None

    def __post_init__(self) -> None:
        self.gpu = first_gpu()

    @property
    def each_s(self) -> float:
        """Return how long a measurement takes, server changes included."""
        return sum(self.took_s) / len(self.took_s) if self.took_s else self.load.duration_s + self.load.warmup_s + 3.0

    @property
    def left_s(self) -> float:
        return float(self.args.minutes) * 60 - (time.monotonic() - self.began_s)

    def check_budget(self, kind: str) -> None:
        """Raise `BudgetSpentError` where no measurement of that kind may follow; the starts are always measured.

        Points and time are reserved for the final comparison. Until some candidate meets the SLO, only the minimum that would
        be needed if the next one does.
        """
        if kind == START:
            return
        found, tried = (self.search.best is not None, len(self.search.trials)) if self.search else (False, 0)
        points = self.args.points
        # what the pick is compared with, at its number of requests in flight
        reserved = self.compared - 1 if found else 0
        if kind in (NEW, SAME_LOAD) and tried >= points:
            raise BudgetSpentError(f"all {console.many(points, 'point')} allowed were used")
        if kind == NEW and tried >= points - reserved:
            raise BudgetSpentError(f"{reserved} of the {points} points allowed are reserved for the comparison")
        repeats = self.args.repeats if found else min(self.args.repeats, LEAST_REPEATS)
        needed = 1 + self.compared * repeats + (0 if kind == SAME_LOAD else reserved)
        if self.left_s < self.each_s * needed:
            use = "reserved for the final comparison" if found else "too short for another point and its comparison"
            raise BudgetSpentError(f"the rest of the {self.args.minutes:g} min is {use}")

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

    def _lengthen(self, first: Measurement) -> None:
        """Measure a slow model for longer: a few requests have no 99th percentile. Only the first measurement decides."""
        if self.took_s or not first.requests:
            return
        needed_s = self.load.duration_s * ENOUGH_REQUESTS / first.requests
        longer_s = math.ceil(min(max(needed_s, self.load.duration_s), self.load.duration_s * LONGER))
        self.load = replace(self.load, duration_s=max(self.load.duration_s, float(longer_s)))

    def say(self, candidate: Candidate, reading: Reading) -> None:
        step = "final" if self.final else f"{len(self.took_s)}"
        missed = "" if reading.latency_us <= self.slo.limit_us else " (misses the SLO)"
        console.say(f"{step}  {candidate.label}: {reading.throughput_per_s:.0f} infer/sec, {self.slo.percentile} "
                    f"{reading.latency_us / 1000:.2f} ms{missed}; {seconds_in_words(self.left_s)} left")  # fmt: skip


def main(args: argparse.Namespace) -> int:
    _check_flags(args)
    args.repository = flags.repository(args)
    published.select(args.repository, [args.model])
    build = build_of(args.repository, args.model)
    slo = tune_slo.parse(args.slo) if args.slo else tune_slo.of_model(args.repository / args.model, build)
    settings = serving_setting.grid(
        base := published_setting(args.repository, args.model), args.instances, args.max_batch, args.queue_delay_us
    )
    serving_setting.check(settings, base, build, args.batch)
    if args.write:
        from measure.tune import write_config

        write_config.check(args.config, args.model, build.get("target", "onnxruntime"))
    outcome, problem = TuneOutcome(), None
    try:
        run(args, slo, outcome)
    except (PlanwrightError, KeyboardInterrupt) as error:
        if not outcome.any:
            raise
        problem = error if isinstance(error, PlanwrightError) else None
        outcome.stopped_by = problem.faults[0].what if problem else INTERRUPTED
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


def _write(args: argparse.Namespace, outcome: TuneOutcome, report: dict[str, Any], build: dict[str, Any]) -> None:
    """Write the pick where it gains on the published setting, or meets the SLO that this one misses."""
    over = report["against"]["published"]
    if outcome.pick is None or over is None or (over["verdict"] != statistics.MORE and over.get("within", True)):
        console.say(f"no clear gain over the published setting: {args.config} is unchanged")
        return
    from measure.tune import write_config

    write_config.write(args.config, args.model, build.get("target", "onnxruntime"), outcome.pick.setting)


def run(args: argparse.Namespace, slo: tune_slo.Slo, outcome: TuneOutcome) -> None:
    """Search and compare; `outcome` keeps what was found before an error or Ctrl-C."""
    with (
        tempfile.TemporaryDirectory(prefix="planwright-tune-") as scratch,
        open_model(args.repository, args.model, Path(scratch), args.server) as served,
    ):
        load = Load(FIRST_USERS, args.protocol, args.batch, args.duration_s, args.warmup_s, args.processes)
        tuner = Tuner(args, served, slo, load, Path(scratch))
        outcome.identity, outcome.published, outcome.default = served.identity, served.published, served.learn_untuned()
        limits = f"at most {args.points} points and {args.minutes:g} min"
        console.say(f"SLO {slo.text}; {limits}; Triton's defaults: {outcome.default.label}")
        try:
            _search(tuner, outcome, space_of(args, outcome.published, outcome.default))
            _compare(tuner, outcome)
        finally:
            if outcome.search is not None:
                _set_results(outcome.search, outcome)
            outcome.load, outcome.took_s = tuner.load, time.monotonic() - tuner.began_s


def _search(tuner: Tuner, outcome: TuneOutcome, space: Space) -> None:
    search = Search(space, tuner.slo.limit_us, tuner.measure, tuner.check_budget, tuner.say)
    outcome.search = tuner.search = search
    users = min(space.users, key=lambda count: abs(math.log(count / FIRST_USERS)))
    settings = dict.fromkeys((outcome.default, outcome.published))
    starts = [Candidate(setting, users) for setting in settings if setting is not None]
    tuner.compared = len(starts) + 1
    search.run(starts)
    outcome.pick = search.best.candidate if search.best else None


def space_of(args: argparse.Namespace, published: ServingSetting, default: ServingSetting) -> Space:
    """Return what may be chosen; what was not given on the command line follows the machine and the model."""
    cores = len(os.sched_getaffinity(0))
    counts = args.instances or tuple(count for count in (1, 2, 4, 8) if count <= max(2, 2 * cores))
    top = published.max_batch
    sizes = args.max_batch or tuple(size for size in (top, top // 2, top // 4) if size >= max(args.batch, 1))
    delays = args.queue_delay_us or (DELAYS_US if top > 1 and not published.sequences else (None,))
    most = min(MOST_USERS, 2 * max(counts) * max(top, 1))
    users = args.users or tuple(1 << power for power in range(9) if 1 << power <= max(most, FIRST_USERS))
    return Space(delays, users, counts, sizes or (top,))


def _compare(tuner: Tuner, outcome: TuneOutcome) -> None:
    """Measure the pick, Triton's defaults and the published setting again, interleaved.

    A pick that misses the SLO here only seemed fast: the next best, by all readings together, follows while there is time. In the
    end the pick is one that met the SLO in fresh readings, or there is none.
    """
    search, compared = outcome.search, set[Candidate]()
    tuner.final = True
    while search is not None and outcome.pick is not None and outcome.pick not in compared:
        compared.add(outcome.pick)
        best = [outcome.pick, *(_best_of(search, setting) for setting in (outcome.default, outcome.published))]
        candidates = [candidate for candidate in dict.fromkeys(best) if candidate is not None]
        _measure_again(tuner, search, outcome, candidates)
        fresh = Trial(outcome.pick, outcome.finals[outcome.pick])
        if search.meets(fresh) or search.best is None or tuner.left_s < tuner.each_s * 2 * tuner.compared:
            break
        outcome.pick = search.best.candidate
    if search is not None and outcome.pick is not None:
        outcome.pick = _confirmed(search, outcome)


def _confirmed(search: Search, outcome: TuneOutcome) -> Candidate | None:
    """Return the pick where its fresh readings meet the SLO and no other is clearly faster, else the fastest that meets it."""
    meeting = [trial for trial in outcome.final_trials() if search.meets(trial)]
    pick = next((trial for trial in meeting if trial.candidate == outcome.pick), None)
    if pick is not None:
        faster = [each for each in meeting if statistics.verdict(each.rates, pick.rates) == statistics.LESS]
        meeting = faster or [pick]
    return max(meeting, key=lambda trial: trial.throughput_per_s).candidate if meeting else None


def _set_results(search: Search, outcome: TuneOutcome) -> None:
    """Set the result of every trial; for those in the final comparison that alone counts, in the verdict's own words."""
    search.set_results(outcome.pick)
    pick = Trial(outcome.pick, outcome.finals.get(outcome.pick, [])) if outcome.pick else None
    for trial in outcome.final_trials():
        if trial.readings and trial.candidate != outcome.pick:
            search.trials[trial.candidate].result = _final_result(search, trial, pick)


def _final_result(search: Search, trial: Trial, pick: Trial | None) -> str:
    if not trial.healthy:
        return "requests failed or answers were wrong when it was measured again"
    if not search.meets(trial):
        return f"missed the SLO when it was measured again: {trial.latency_us / 1000:.2f} ms"
    if pick is None:
        return "met the SLO when it was measured again"
    return f"measured again; the pick compared with it: {statistics.compare(trial.rates, pick.rates)}"


def _measure_again(tuner: Tuner, search: Search, outcome: TuneOutcome, candidates: list[Candidate]) -> None:
    affordable = int(tuner.left_s / (tuner.each_s * len(candidates)))
    for candidate in interleaved(candidates, min(tuner.args.repeats, max(2, affordable))):
        found, reading = outcome.finals.setdefault(candidate, []), tuner.measure(candidate)
        if reading is not None:
            found.append(reading)
            search.trials[candidate].readings.append(reading)
            tuner.say(candidate, reading)


def _best_of(search: Search, setting: ServingSetting | None) -> Candidate | None:
    """Return the candidate with this setting that has the most throughput within the SLO, else the one closest to it."""
    trials = [trial for trial in search.trials.values() if trial.candidate.setting == setting and trial.readings]
    within = [trial for trial in trials if search.meets(trial)]
    if within:
        return max(within, key=lambda trial: trial.throughput_per_s).candidate
    return min(trials, key=lambda trial: trial.latency_us).candidate if trials else None


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse a bad command line before anything published is looked at."""
    flags.check_load(args)
    if args.slo:
        tune_slo.parse(args.slo)
    faults = []
    if args.points < 2:
        why = "two are taken by Triton's defaults and the published setting"
        faults.append(Fault(f"invalid value for --points: {args.points}", why=why, fix="--points 12"))
    if not 0 < args.minutes <= 24 * 60:
        faults.append(Fault(f"invalid value for --minutes: {args.minutes:g}", fix="give a number above 0, up to a day"))
    if faults:
        raise SpecError(*faults)
