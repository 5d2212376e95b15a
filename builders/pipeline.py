"""Take one model through all stages.

In      a job and the command line's options.
Out     a `Result`; a model that fails never stops the others.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builders import error_log
from builders.precision import autocast
from builders.repository import publish, serve_check, tensorrt_match
from builders.repository.trial import TrialServer
from builders.repository.versions import Published
from builders.stage import Decision, Job, Stage, decide, execute, mark_imported, record_of
from builders.stages.compile import COMPILE
from builders.stages.export import EXPORT
from builders.stages.golden_checks import check_distinct
from builders.stages.graph import GRAPH
from builders.stages.verify import VERIFY
from planwright.errors import Fault, MachineError, PlanwrightError, SpecError, StageError

STAGES: tuple[Stage, ...] = (EXPORT, GRAPH, COMPILE, VERIFY)
NAMES = (*(stage.name for stage in STAGES), "publish")

Say = Callable[[str], None]


@dataclass(frozen=True)
class BuildOptions:
    """Which stages the command line selects.

    Attributes:
        until: Last stage to run.
        start: First stage to run; the outputs of earlier ones are taken as they are.
        force: Run every stage from `start` on, whatever the records say.
        trial: The server that loads a model before it is published.
    """

    until: str = "publish"
    start: str = "export"
    force: bool = False
    trial: TrialServer = field(default_factory=lambda: TrialServer(Path(), wanted=False))


@dataclass
class Result:
    """The outcome for one model: status 'built', 'kept' or 'failed'; 'due' in a plan."""

    model: str
    status: str = "kept"
    seconds: float = 0.0
    version: int | None = None
    note: str = ""
    stages: dict[str, str] = field(default_factory=dict)
    error: PlanwrightError | None = None

    def as_dict(self) -> dict[str, Any]:
        faults = [fault.as_dict() for fault in self.error.faults] if self.error else []
        stage = getattr(self.error, "stage", None)
        return {
            "model": self.model, "status": self.status, "seconds": round(self.seconds, 3), "version": self.version,
            "note": self.note, "stages": self.stages, "failed_stage": stage, "errors": faults,
        }  # fmt: skip


def build(job: Job, options: BuildOptions, say: Say) -> Result:
    """Run the stages that are due; stop at the first that fails."""
    result, started = Result(job.model.name), time.perf_counter()
    try:
        job.log.unlink(missing_ok=True)
        if job.model.missing:
            raise SpecError(*job.model.missing)
        _run_stages(job, options, result, say)
        if options.until == "publish":
            _publish(job, options.trial, result, say)
        job.log.unlink(missing_ok=True)
    except PlanwrightError as error:
        result.status, result.error = "failed", error.checked_by(job.model.build_command())
    except OSError as error:
        what, where = f"{job.model.name}: {error.strerror or error}", str(error.filename or job.build)
        fault = Fault(what, where, fix="free disk space or make the folder writable")
        result.status, result.error = "failed", MachineError(fault)
    except Exception as error:  # a bug in a zoo file or in Planwright; the other models still build
        result.status, result.error = "failed", _unexpected(job, error)
    result.seconds = time.perf_counter() - started
    job.cache.save()
    return result


def _unexpected(job: Job, error: Exception) -> PlanwrightError:
    """Save the stack trace to error.log and name the line that raised.

    Each library reports a full disk in its own words, so the free space is checked first.
    """
    why = f"{type(error).__name__}: {error_log.reason(error)}"
    if error_log.disk_full(job.build):
        fault = Fault(f"{job.model.name}: the disk is full", str(job.build), f"No space left on device; {why}",
                      "free some disk space", "python -m builders doctor")  # fmt: skip
        return MachineError(fault)
    error_log.append(job.log, "".join(traceback.format_exception(error)))
    frame = traceback.extract_tb(error.__traceback__)[-1]
    what, where = f"unexpected error while building {job.model.name}", f"{frame.filename}:{frame.lineno}"
    return PlanwrightError(Fault(what, where, why, f"the full stack trace is in {job.log}"))


def _due(options: BuildOptions) -> Sequence[Stage]:
    first, last = NAMES.index(options.start), NAMES.index(options.until)
    return STAGES[first : last + 1]


def _run_stages(job: Job, options: BuildOptions, result: Result, say: Say) -> None:
    _require_earlier(job, options)
    checked = False
    for stage in _due(options):
        if stage is VERIFY:
            serve_check.check(job)
        decision = decide(stage, job, forced=options.force)
        result.stages[stage.name] = f"{decision.action}: {decision.why}"
        _start_trial_server(job, options, decision, stage)
        if decision.action == "run":
            if stage is not EXPORT and not checked:
                check_distinct(job)
                checked = True
            _run(stage, job, decision, say)
            result.status = "built"
        elif decision.action == "import":
            mark_imported(stage, job)
    _say_warnings(job, result, say)


def _start_trial_server(job: Job, options: BuildOptions, decision: Decision, stage: Stage) -> None:
    """Start the trial server while a stage runs, if something will be published."""
    if options.until != "publish":
        return
    changed = stage is VERIFY and not publish.current(job, tried=options.trial.wanted)
    if changed or decision.action == "run":
        options.trial.start()


def _run(stage: Stage, job: Job, decision: Decision, say: Say) -> None:
    missing = [name for name, found in stage.tools(job).items() if found is None]
    if missing:
        why = f"{stage.name} is due ({decision.why}), and {', '.join(missing)} is not installed"
        extras = "" if autocast.PACKAGE not in missing else f"; this one: .venv/bin/{autocast.INSTALL}"
        fix = f"install it (make setup{extras}), or export on another machine and copy build/ here"
        raise MachineError(Fault(f"{job.model.name}: this machine cannot {stage.name}", why=why, fix=fix))
    say(job.line(stage.name, decision.why))
    record = execute(stage, job)
    say(f"{job.model.name:<16} {stage.name:<8} done in {record['seconds']:.1f} s")


def _require_earlier(job: Job, options: BuildOptions) -> None:
    for stage in STAGES[: NAMES.index(options.start)]:
        if not record_of(stage.folder(job)):
            what, where = f"--from {options.start} needs the output of {stage.name}", str(stage.folder(job))
            raise StageError(stage.name, Fault(what, where, "it was never built", "omit --from"))


def _say_warnings(job: Job, result: Result, say: Say) -> None:
    if result.status == "built":
        for folder in (job.export_folder, job.graph_folder):
            for text in record_of(folder).get("result", {}).get("warnings", []):
                say(f"{job.model.name:<16} warning: {text}")


def _publish(job: Job, trial: TrialServer, result: Result, say: Say) -> None:
    tensorrt_match.check(job)
    serve_check.check(job)
    if publish.current(job, tried=trial.wanted):
        result.stages["publish"] = "keep: unchanged"
        result.version = Published(job.repository / job.model.name).served()[-1]
        return
    outcome = publish.publish(job, trial)
    words = {"published": f"version {outcome.version} published", "served": f"version {outcome.version} served again",
             "config": "config.pbtxt rewritten", "kept": "unchanged"}  # fmt: skip
    proof = outcome.proof or {}
    if "server" in proof:
        took = f"Triton {proof['server']} in {proof['seconds']:.1f} s"
        say(f"{job.model.name:<16} trial    loaded and answered by {took}")
    untried = f", not loaded in a server first ({proof['skipped']})" if "skipped" in proof else ""
    result.note, result.version = words[outcome.action] + untried, outcome.version
    result.stages["publish"] = f"run: {result.note}"
    result.status = "built"
    removed = f", pruned {', '.join(map(str, outcome.removed))}" if outcome.removed else ""
    say(f"{job.model.name:<16} publish  {result.note}{removed}")


def plan(job: Job, options: BuildOptions) -> Result:
    """Return what `build` would do and why, without doing it."""
    result = Result(job.model.name)
    try:
        if job.model.missing:
            raise SpecError(*job.model.missing)
        _plan_stages(job, options, result)
    except PlanwrightError as error:  # such as a zoo file that cannot be read
        result.status, result.error = "failed", error
    return result


def _plan_stages(job: Job, options: BuildOptions, result: Result) -> None:
    changed = ""
    for stage in _due(options):
        decision = Decision("run", f"{changed} will change") if changed else decide(stage, job, forced=options.force)
        result.stages[stage.name] = f"{decision.action}: {decision.why}"
        changed = changed or (stage.name if decision.action == "run" else "")
    if options.until == "publish":
        action = f"run: {changed} will change" if changed else publish.plan(job)
        result.stages["publish"] = action if changed or action == "keep" else f"run: {action}"
    due = any(text.startswith("run") for text in result.stages.values())
    result.status = "due" if due else "kept"
