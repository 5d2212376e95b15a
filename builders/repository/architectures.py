"""Plans for several GPU architectures in one published version.

In      ``compile.architectures`` and the compile folders of the machines that built them, copied together below build/.
Out     the plan of this machine as ``model.plan``, those of others as ``model.sm86.plan``; Triton picks by
        ``cc_model_filenames``.

Each machine builds the plan for its own GPU (``--until verify``); the machine that publishes needs all of them in build/.
"""

from __future__ import annotations

from pathlib import Path

from builders.stage import Job
from builders.stages.compile import read_tensors
from planwright.errors import Fault, StageError


def names(job: Job) -> dict[str, str]:
    """Return compute capability -> file name in the version folder; empty where config.yaml names no architectures."""
    found = {each: f"model.sm{each.replace('.', '')}.plan" for each in job.model.compile.architectures}
    own = job.target.versions().get("compute_capability", "")
    return found | ({own: job.target.filename} if own in found else {})


def others(job: Job) -> dict[str, Path]:
    """Return file name → plan for all other architectures; raises StageError if one is missing or has other tensors than this one's."""
    found, faults = {}, []
    for capability, name in names(job).items():
        if name == job.target.filename:
            continue
        folder = job.compile_folder.with_name(_key(job, capability))
        plan = folder / job.target.filename
        if not plan.exists():
            what, why = f"there is no plan for compute capability {capability}", "compile.architectures lists it"
            fix = f"on a GPU of compute capability {capability}: {job.model.build_command('--until', 'verify')}; then copy build/ here"
            faults.append(Fault(what, str(plan), why, fix))
        elif read_tensors(folder) != read_tensors(job.compile_folder):
            what, why = f"the plan for {capability} has different inputs or outputs", "it was built from another graph"
            faults.append(Fault(what, str(plan), why, "build it again"))
        else:
            found[name] = plan
    if faults:
        raise StageError("publish", *faults)
    return found


def _key(job: Job, capability: str) -> str:
    """Return the folder name of another architecture: this machine's, with the other number."""
    return f"{job.target.key().rpartition('-sm')[0]}-sm{capability.replace('.', '')}"
