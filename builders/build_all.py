"""config.yaml → model_repository/: the entry script.

In      the command line and config.yaml.
Out     published models, a summary, an exit code: 0 done, 1 a model failed, 2 bad command line or config, 3 machine not ready.

``python builders/build_all.py`` puts builders/ first on the import path, where the package ``builders`` cannot be found and a
file could shadow a library; the line below puts the checkout's root in its place.
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
from builders.pipeline import BuildOptions, Result  # noqa: E402
from builders.repository import serve_check, trial  # noqa: E402
from builders.stage import Job  # noqa: E402
from builders.targets import choose, get_target  # noqa: E402
from planwright import console  # noqa: E402
from planwright.config.load import load_spec  # noqa: E402
from planwright.config.spec import RepositorySpec  # noqa: E402
from planwright.errors import EXIT_OK, Fault, MachineError, StageError  # noqa: E402
from planwright.files import HashCache  # noqa: E402
from planwright.repository_folder import repository_folder  # noqa: E402

_IMPORTED = time.perf_counter()


def parser() -> argparse.ArgumentParser:
    """Return the command line; docs and tests read it too."""
    names = ", ".join(pipeline.NAMES)
    p = console.Parser(prog="build_all.py", description="Build, verify and publish the models of config.yaml.")
    add = p.add_argument
    add("models", nargs="*", metavar="MODEL", help="models to build (default: all enabled ones)")
    add("--config", type=Path, default=Path("config.yaml"), help="what to build (default: %(default)s)")
    add("--target", choices=["auto", "onnxruntime", "tensorrt"], default="auto", help="engine to build (default: auto)")
    add("--until", metavar="STAGE", choices=pipeline.NAMES, default="publish", help=f"last stage: {names}")
    add("--from", dest="start", metavar="STAGE", choices=pipeline.NAMES, default="export",
        help="first stage; the outputs of earlier ones are reused")  # fmt: skip
    add("--plan", action="store_true", help="show what would be done and why, and do nothing")
    add("--force", action="store_true", help="run every stage, even if nothing changed")
    add("--verify-hashes", action="store_true", help="hash every file again instead of trusting size and time")
    add("--random-weights", metavar="MODEL", action="append", default=[], help="build MODEL with seeded random weights")
    add(trial.FLAG, dest="trial_load", action="store_false",
        help="publish without first loading the model in a server; build.json records it")  # fmt: skip
    add("--repository", type=Path, help="where to publish (default: model_repository beside the config)")
    add("--build", type=Path, help="folder for intermediate files (default: build beside the config)")
    console.add_json_flag(p)
    return p


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    console.set_json(args.json)
    target, reason = choose(args.target, needs_engine=not args.plan and args.until not in ("export", "graph"))
    console.say(f"target {target}: {reason}")
    select = [*args.models, *args.random_weights]
    flags = {name: f"--random-weights {name}" for name in args.random_weights}
    spec = load_spec(args.config, target, select=select, flags=flags, further=serve_check.from_file)
    jobs = _jobs(args, spec)
    if args.plan:
        options = BuildOptions(args.until, args.start, args.force)
        results = [pipeline.plan(job, options) for job in jobs]
    else:
        with trial.TrialServer(_build_folder(args, spec), wanted=args.trial_load) as server:
            options = BuildOptions(args.until, args.start, args.force, server)
            results = [pipeline.build(job, options, console.say) for job in jobs]
        reload.reload_changed(results, _repository(args, spec), console.say)
    _summary(args, results, target, reason)
    codes = [result.error.exit_code for result in results if result.error is not None]
    return min(codes, default=EXIT_OK)  # 3 only if every failure was the machine's


def _jobs(args: argparse.Namespace, spec: RepositorySpec) -> list[Job]:
    random = args.random_weights
    chosen = [m for m in spec.models if m.name in (args.models or random) or not args.models and m.enabled]
    build = _build_folder(args, spec)
    try:
        build.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why, fix = error.strerror or "", "give another folder with --build"
        raise MachineError(Fault("cannot write intermediate files", str(build), why, fix)) from None
    cache = HashCache(build / "hashes.json", trust=not args.verify_hashes)
    repository, target = _repository(args, spec), get_target(spec.target, spec.server)
    return [Job(m, spec.root, build, repository, target, spec.server, cache, m.name in random) for m in chosen]


def _build_folder(args: argparse.Namespace, spec: RepositorySpec) -> Path:
    folder: Path = args.build or spec.root / "build"
    return folder


def _repository(args: argparse.Namespace, spec: RepositorySpec) -> Path:
    return repository_folder(args.repository, config=spec.path)


def _summary(args: argparse.Namespace, results: Sequence[Result], target: str, reason: str) -> None:
    own_s, total_s = time.perf_counter() - _IMPORTED, time.perf_counter() - _STARTED
    if args.json:
        seconds = {"own_seconds": round(own_s, 3), "seconds": round(total_s, 3)}
        models = [result.as_dict() for result in results]
        console.emit_json({"target": target, "reason": reason, **seconds, "models": models})
    if args.plan:
        rows = [(r.model, stage, *text.partition(": ")[::2]) for r in results for stage, text in r.stages.items()]
        console.table("plan", ["model", "stage", "action", "why"], rows)
    for result in results:
        if result.error is not None:
            stage = f" at stage {result.error.stage}" if isinstance(result.error, StageError) else ""
            console.say(f"\n{result.model} failed{stage}\n{result.error}")
    if args.plan:
        return
    if any(result.status != "kept" for result in results):
        lines = [(r.model, r.status, r.version or "", f"{r.seconds:.1f}", r.note or _first_fix(r)) for r in results]
        console.table("summary", ["model", "status", "version", "seconds", "note"], lines)
    counts = ", ".join(f"{sum(r.status == s for r in results)} {s}" for s in ("built", "kept", "failed"))
    console.say(f"{counts} in {own_s:.2f} s ({total_s:.2f} s with imports)")


def _first_fix(result: Result) -> str:
    return f"fix: {result.error.faults[0].fix}" if result.error else ""


if __name__ == "__main__":
    console.run(main)
