"""One model through all stages, and all models one after the other.

In      jobs and what the command line asks.
Out     a `Result` per model; a model that fails never stops the others.
"""

from __future__ import annotations

import shutil
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
FULL_BYTES = 1 << 20  # with less than this free, a failed write is a full disk


@dataclass(frozen=True)
class Request:
    """What the command line asks of the pipeline.

    Attributes:
        until: Last stage to run.
        start: First stage to run; the outputs of earlier ones are taken as they are.
        force: Run every stage from `start` on, whatever the records say.
        trial: The server that loads what is about to be published.
    """

    until: str = "publish"
    start: str = "export"
    force: bool = False
    trial: TrialServer = field(default_factory=lambda: TrialServer(Path(), wanted=False))


@dataclass
class Result:
    """What happened to one model: status 'built', 'kept' or 'failed'."""

    model: str
    status: str = "kept"
    seconds: float = 0.0
    version: int | None = None
    note: str = ""
    stages: dict[str, str] = field(default_factory=dict)
    error: PlanwrightError | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON value."""
        faults = [fault.as_dict() for fault in self.error.faults] if self.error else []
        stage = getattr(self.error, "stage", None)
        return {
            "model": self.model, "status": self.status, "seconds": round(self.seconds, 3), "version": self.version,
            "note": self.note, "stages": self.stages, "failed_stage": stage, "errors": faults,
        }  # fmt: skip


def build(job: Job, request: Request, say: Say) -> Result:
    """Run the stages that are due, stop at the first that fails."""
    result, started = Result(job.model.name), time.perf_counter()
    try:
        job.log.unlink(missing_ok=True)
        _require_files(job)
        _run_stages(job, request, result, say)
        if request.until == "publish":
            _publish(job, request.trial, result, say)
        job.log.unlink(missing_ok=True)
    except PlanwrightError as error:
        result.status, result.error = "failed", error.checked_by(job.model.build_command())
    except OSError as error:
        result.status = "failed"
        result.error = MachineError(
            Fault(
                f"{job.model.name}: {error.strerror or error}",
                str(error.filename or job.build),
                fix="free disk space or make the folder writable",
            )
        )
    except Exception as error:  # a bug in a zoo file or here: kept whole in a file, and the other models go on
        result.status, result.error = "failed", _unexpected(job, error)
    result.seconds = time.perf_counter() - started
    job.cache.save()
    return result


def _require_files(job: Job) -> None:
    if job.model.missing:
        raise SpecError(*job.model.missing)


def _unexpected(job: Job, error: Exception) -> PlanwrightError:
    """Save the stack trace beside the model's files and name the line that raised.

    Libraries tell a full disk in words of their own, so the disk is asked first.
    """
    if shutil.disk_usage(job.build).free < FULL_BYTES:
        why = f"No space left on device; {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return MachineError(
            Fault(
                f"{job.model.name}: the disk is full",
                str(job.build),
                why,
                "free some disk space",
                "python -m builders doctor",
            )
        )
    error_log.append(job.log, "".join(traceback.format_exception(error)))
    frame = traceback.extract_tb(error.__traceback__)[-1]
    why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    fix = f"the whole stack trace is in {job.log}"
    return PlanwrightError(
        Fault(f"unexpected error while building {job.model.name}", f"{frame.filename}:{frame.lineno}", why, fix)
    )


def _due(request: Request) -> Sequence[Stage]:
    first, last = NAMES.index(request.start), NAMES.index(request.until)
    return STAGES[first : last + 1]


def _run_stages(job: Job, request: Request, result: Result, say: Say) -> None:
    _require_earlier(job, request)
    checked = False
    for stage in _due(request):
        if stage is VERIFY:
            serve_check.check(job)
        decision = decide(stage, job, forced=request.force)
        result.stages[stage.name] = f"{decision.action}: {decision.why}"
        _get_ready(job, request, decision, stage)
        if decision.action == "run":
            if stage is not EXPORT and not checked:
                check_distinct(job)
                checked = True
            _run(stage, job, decision, say)
            result.status = "built"
        elif decision.action == "import":
            mark_imported(stage, job)
    _tell_warnings(job, result, say)


def _get_ready(job: Job, request: Request, decision: Decision, stage: Stage) -> None:
    """Let the trial server start while a stage works, where something will be published."""
    if request.until != "publish":
        return
    changed = stage is VERIFY and not publish.current(job, tried=request.trial.wanted)
    if changed or decision.action == "run":
        request.trial.start()


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


def _require_earlier(job: Job, request: Request) -> None:
    for stage in STAGES[: NAMES.index(request.start)]:
        if not record_of(stage.folder(job)):
            fault = Fault(
                f"--from {request.start} needs the output of {stage.name}",
                str(stage.folder(job)),
                "it was never built",
                "leave --from out",
            )
            raise StageError(stage.name, fault)


def _tell_warnings(job: Job, result: Result, say: Say) -> None:
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
    words = {"published": f"version {outcome.version} published", "config": "config.pbtxt rewritten",
             "served": f"version {outcome.version} served again", "kept": "unchanged"}  # fmt: skip
    proof = outcome.proof or {}
    if "server" in proof:
        say(f"{job.model.name:<16} trial    answered by Triton {proof['server']} in {proof['seconds']:.1f} s")
    untried = f", no server loaded it first ({proof['skipped']})" if "skipped" in proof else ""
    result.note, result.version = words[outcome.action] + untried, outcome.version
    result.stages["publish"] = f"run: {result.note}"
    result.status = "built"
    removed = f", pruned {', '.join(map(str, outcome.removed))}" if outcome.removed else ""
    say(f"{job.model.name:<16} publish  {result.note}{removed}")


def plan(job: Job, request: Request) -> Result:
    """Say what `build` would do and why, without doing it."""
    result = Result(job.model.name)
    try:
        _require_files(job)
        _plan_stages(job, request, result)
    except PlanwrightError as error:  # a zoo file that cannot be read; the other models are still planned
        result.status, result.error = "failed", error
    return result


def _plan_stages(job: Job, request: Request, result: Result) -> None:
    changed = ""
    for stage in _due(request):
        decision = Decision("run", f"{changed} will change") if changed else decide(stage, job, forced=request.force)
        result.stages[stage.name] = f"{decision.action}: {decision.why}"
        changed = changed or (stage.name if decision.action == "run" else "")
    if request.until == "publish":
        action = f"run: {changed} will change" if changed else publish.plan(job)
        result.stages["publish"] = action if changed or action == "keep" else f"run: {action}"
    due = any(text.startswith("run") for text in result.stages.values())
    result.status = "due" if due else "kept"
