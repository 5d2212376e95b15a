"""What bench, layers and search share: their flags, the job of a model, and what they need on this machine.

In      the command line.
Out     a `Job`; a `StageError` where the model is not built that far, a `MachineError` where this machine cannot do it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from builders.stage import Job
from builders.targets import choose, get_target
from planwright import console
from planwright.config.load import load_spec
from planwright.config.spec import Target
from planwright.errors import Fault, MachineError, SpecError, StageError, did_you_mean
from planwright.files import HashCache
from planwright.repository_folder import repository_folder


def add_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config", type=Path, default=Path("config.yaml"), help="what was built (default: %(default)s)"
    )
    command.add_argument("--build", type=Path, help="where intermediate files are (default: build beside the config)")
    console.add_json_flag(command)


def target_of(command: str, wanted: str, *, fix: str) -> Target:
    """Return the target that a command works with here; raises MachineError, with `fix`, if it needs a GPU or TensorRT (exit 3)."""
    try:
        return choose(wanted)[0]
    except MachineError as error:
        why = "; ".join(filter(None, (error.faults[0].what, error.faults[0].why)))
        what = f"{command} cannot run on this machine"
        raise MachineError(Fault(what, why=why, fix=fix, check="python -m builders doctor")) from None


def job_of(args: argparse.Namespace, name: str, target: Target) -> Job:
    """Return the job of one model; raises SpecError if there is no such model."""
    spec = load_spec(args.config, target, select=[name])
    if name not in spec.names():
        raise SpecError(Fault(f"there is no model '{name}'", str(args.config), fix=did_you_mean(name, spec.names())))
    model = next(model for model in spec.models if model.name == name)
    build = args.build or spec.root / "build"
    repository, cache = repository_folder(config=args.config), HashCache(build / "hashes.json")
    return Job(model, spec.root, build, repository, get_target(target, spec.server), spec.server, cache)


def require(path: Path, job: Job) -> Path:
    """Return `path`; raises StageError if the model is not built that far."""
    if not path.exists():
        fix = job.model.build_command("--target", job.target.name)
        raise StageError("engine", Fault(f"{job.model.name} is not built", str(path), "the file is not there", fix))
    return path


def require_calibration(job: Job) -> None:
    """Refuse a search for a model that has no calibration samples, which the export makes for INT8 only."""
    path = job.export_folder / "calibration.npz"
    if not path.exists():
        fix = f"set precision: int8, then {job.model.build_command('--until', 'graph')}"
        why = "the export makes them only for a model in INT8"
        raise StageError("graph", Fault(f"{job.model.name} has no calibration samples", str(path), why, fix))


def numbers(flag: str, text: str) -> list[int]:
    """Return the numbers of a flag such as ``1,8,32``; raises SpecError if it holds something else."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        fix = "give comma-separated integers from 1, such as 1,8,32"
        raise SpecError(Fault(f"invalid value for {flag}: '{text}'", fix=fix))
    return [int(part) for part in parts]
