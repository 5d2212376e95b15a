"""config.yaml → model_repository/: the entry script.

In      the command line and config.yaml.
Out     published models, a summary, an exit code: 0 done, 1 a model failed, 2 bad command line or config, 3 not ready.

``python builders/build_all.py`` puts builders/ first on the import path, where ``builders.spec`` could not be found and
a file there could hide a library; the line below puts the checkout's root in its place.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_STARTED = time.perf_counter()
sys.path[0] = str(Path(__file__).resolve().parents[1])

from builders import pipeline, reload  # noqa: E402
from builders.pipeline import Request, Result  # noqa: E402
from builders.repository import serve_check, trial  # noqa: E402
from builders.stage import Job  # noqa: E402
from builders.targets import get_target  # noqa: E402
from builders.targets.choose import choose  # noqa: E402
from planwright import console  # noqa: E402
from planwright.config.load import load_spec  # noqa: E402
from planwright.config.spec import RepositorySpec  # noqa: E402
from planwright.errors import (  # noqa: E402
    EXIT_FAILED,
    EXIT_MACHINE,
    EXIT_OK,
    Fault,
    MachineError,
    PlanwrightError,
    SpecError,
    StageError,
    did_you_mean,
)
from planwright.files import HashCache  # noqa: E402
from planwright.repository_folder import repository_folder  # noqa: E402

_IMPORTED = time.perf_counter()


def parser() -> argparse.ArgumentParser:
    """Return the command line; docs and tests read it too."""
    names = ", ".join(pipeline.NAMES)
    p = console.Parser(prog="build_all.py", description="Build, verify and publish the models of config.yaml.")
    p.add_argument("models", nargs="*", metavar="MODEL", help="models to build; all enabled ones if none is named")
    p.add_argument("--config", type=Path, default=Path("config.yaml"), help="what to build (default: %(default)s)")
    p.add_argument(
        "--target", choices=["auto", "onnxruntime", "tensorrt"], default="auto", help="engine to build (default: auto)"
    )
    p.add_argument("--until", metavar="STAGE", choices=pipeline.NAMES, default="publish", help=f"last stage: {names}")
    p.add_argument("--from", dest="start", metavar="STAGE", choices=pipeline.NAMES, default="export",
                   help="first stage; take the outputs of earlier ones as they are")  # fmt: skip
    p.add_argument("--plan", action="store_true", help="say what would be done and why, and do nothing")
    p.add_argument("--force", action="store_true", help="run the stages even where nothing changed")
    p.add_argument(
        "--verify-hashes", action="store_true", help="read every file's bytes instead of trusting size and time"
    )
    p.add_argument(
        "--random-weights", metavar="MODEL", action="append", default=[], help="build MODEL with seeded random weights"
    )
    p.add_argument(trial.FLAG, dest="trial_load", action="store_false",
                   help="publish without loading the model in a server first; build.json records it")  # fmt: skip
    p.add_argument("--repository", type=Path, help="where to publish (default: model_repository beside the config)")
    p.add_argument("--build", type=Path, help="where intermediate files go (default: build beside the config)")
    console.add_json_flag(p)
    return p


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(argv)
    console.set_json(args.json)
    target, reason = choose(args.target, needs_engine=not args.plan and args.until not in ("export", "graph"))
    console.say(f"target {target}: {reason}")
    select = [*args.models, *args.random_weights]
    spec = load_spec(args.config, target, select=select, further=serve_check.from_file)
    jobs = _jobs(args, spec)
    if args.plan:
        request = Request(args.until, args.start, args.force)
        results = [pipeline.plan(job, request) for job in jobs]
    else:
        with trial.TrialServer(_build_folder(args, spec), wanted=args.trial_load) as server:
            request = Request(args.until, args.start, args.force, server)
            results = [pipeline.build(job, request, console.say) for job in jobs]
        reload.tell(results, _repository(args, spec), console.say)
    _summary(args, results, target, reason)
    return _exit_code(results)


def _jobs(args: argparse.Namespace, spec: RepositorySpec) -> list[Job]:
    unknown = [name for name in args.random_weights if name not in spec.names()]
    if unknown:
        raise SpecError(
            *(
                Fault(f"--random-weights {name}: no such model", fix=did_you_mean(name, spec.names()))
                for name in unknown
            )
        )
    chosen = [
        m
        for m in spec.models
        if m.name in args.models or (not args.models and (m.enabled or m.name in args.random_weights))
    ]
    build = _build_folder(args, spec)
    try:
        build.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            Fault(
                "cannot write intermediate files", str(build), error.strerror or "", "give another folder with --build"
            )
        ) from None
    cache = HashCache(build / "hashes.json", trust=not args.verify_hashes)
    return [
        Job(
            model,
            spec.root,
            build,
            _repository(args, spec),
            get_target(spec.target, spec.server),
            spec.server,
            cache,
            model.name in args.random_weights,
        )
        for model in chosen
    ]


def _build_folder(args: argparse.Namespace, spec: RepositorySpec) -> Path:
    folder: Path = args.build or spec.root / "build"
    return folder


def _repository(args: argparse.Namespace, spec: RepositorySpec) -> Path:
    return repository_folder(args.repository, config=spec.path)


def _summary(args: argparse.Namespace, results: Sequence[Result], target: str, reason: str) -> None:
    own_s, total_s = time.perf_counter() - _IMPORTED, time.perf_counter() - _STARTED
    if args.json:
        models = [result.as_dict() for result in results]
        console.emit_json(
            {
                "target": target,
                "reason": reason,
                "own_seconds": round(own_s, 3),
                "seconds": round(total_s, 3),
                "models": models,
            }
        )
    if args.plan:
        rows = [(r.model, stage, *text.partition(": ")[::2]) for r in results for stage, text in r.stages.items()]
        console.table("what would be done", ["model", "stage", "action", "why"], rows)
    for result in results:
        if result.error is not None:
            _say_failure(result.model, result.error)
    if args.plan:
        return
    if any(result.status != "kept" for result in results):
        lines = [(r.model, r.status, r.version or "", f"{r.seconds:.1f}", r.note or _first_fix(r)) for r in results]
        console.table("summary", ["model", "status", "version", "seconds", "note"], lines)
    counts = {status: sum(r.status == status for r in results) for status in ("built", "kept", "failed")}
    console.say(
        ", ".join(f"{count} {status}" for status, count in counts.items())
        + f" in {own_s:.2f} s ({total_s:.2f} s with imports)"
    )


def _say_failure(model: str, error: PlanwrightError) -> None:
    console.say()
    console.say(f"{model} failed" + (f" at stage {error.stage}" if isinstance(error, StageError) else ""))
    console.say(str(error))


def _first_fix(result: Result) -> str:
    return f"fix: {result.error.faults[0].fix}" if result.error else ""


def _exit_code(results: Sequence[Result]) -> int:
    errors = [result.error for result in results if result.error is not None]
    if not errors:
        return EXIT_OK
    return (
        EXIT_MACHINE
        if all(error.exit_code == EXIT_MACHINE for error in errors)
        else max(EXIT_FAILED, min(e.exit_code for e in errors))
    )


if __name__ == "__main__":
    console.run(main)
