"""The trial load: before a version is published, the server found here loads it and answers golden samples.

In      config.pbtxt and the version folders as they are about to be published.
Out     a record for build.json, or a `StageError` with Triton's own sentence or the first wrong answer.

Rules differ between servers, so a real server decides. One runs per command, started while the first model is
exported, when a core is idle, in explicit mode on a scratch repository, into which the files are linked. Every instance group has one instance
there, because more of them prove nothing more and may not fit beside what is served; and a few golden samples of the two
smallest shapes are sent, because verify has compared them all. It is stopped without a grace period, because it has no clients; the launcher's
janitor cleans up after it, also after a kill.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from builders.repository import config_pbtxt, serve_check
from builders.stage import Job
from planwright.config import serve_fields
from planwright.config_pbtxt import parse
from planwright.errors import Fault, MachineError, StageError
from planwright.files import ROOT
from planwright.golden import Golden, Group
from planwright.gpu import devices
from planwright.integrity import CONFIG
from planwright.own_server import own_server
from planwright.server_info import ServerInfo
from planwright.triton_admin import RefusedError, TritonAdmin, UnreachableError

FLAG, GOLDEN = "--no-trial-load", "golden.npz"
LOAD_S = 600.0
SAMPLES, SHAPES = 8, 2
_SAFE = re.compile(r"[A-Za-z0-9._/-]+")  # the server hands its repository's path to a shell
ANSWER_S = 3600.0
_ENTRY = (
    "import json, sys; from clients.__main__ import main; from planwright import console; "
    "words = sys.stdin.readline(); words and console.run(main, json.loads(words))"
)
_POOL_BYTES = 64 << 20  # Triton's own default; the launcher's is for traffic


class UnansweredError(Exception):
    """An answer is wrong or missing; the text says which."""


class GoldenCheck:
    """Golden answers of a model by `python -m clients validate`, in a process of its own because builders and clients do not import
    each other; `close` it. It is started long before it is needed, so that its imports cost no time, and reads its command
    line from standard input.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", _ENTRY], cwd=ROOT, stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip

    def close(self) -> None:
        """End the process, also where it was never used."""
        self._process.kill()
        self._process.communicate()

    def check(self, model: str, repository: Path, server_file: Path) -> int:
        """Send golden samples at batch 1 and max over HTTP; return how many checks passed, or raise UnansweredError."""
        words = ["validate", model, "--json", "--transport", "http", "--batch", "1", "--batch", "max", "--trust-repository",
                 "--repository", str(repository.resolve()), "--server-file", str(server_file.resolve())]  # fmt: skip
        try:
            out, err = self._process.communicate(json.dumps(words) + "\n", timeout=ANSWER_S)
        except subprocess.TimeoutExpired:
            raise UnansweredError(f"no answer within {ANSWER_S:g} s") from None
        document: dict[str, Any] = {}
        with suppress(json.JSONDecodeError):
            document = json.loads(out)
        rows = document.get("rows", [])
        bad = next((row for row in rows if row["verdict"] in ("WRONG", "FAILED")), None)
        if bad is not None:
            raise UnansweredError(f"{bad['verdict']} at batch {bad['batch']}: {bad['reason']}")
        if self._process.returncode:
            first = (document.get("errors") or [{"what": err.strip()[-2000:]}])[0]
            raise UnansweredError("; ".join(filter(None, [first["what"], first.get("why", "")])))
        return len(rows)


class TrialServer:
    """The trial server of one command, started when first needed; `build` must be on the same disk as what is linked."""

    def __init__(self, build: Path, *, wanted: bool = True) -> None:
        self._build, self.wanted = build, wanted
        self._stack = ExitStack()
        self._worker = ThreadPoolExecutor(1)
        self._starting: Future[ServerInfo] | None = None
        self._golden: GoldenCheck | None = None
        self._folder = Path()

    def __enter__(self) -> TrialServer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._golden is not None:
            self._golden.close()
        self._stop()
        self._worker.shutdown()

    def start(self) -> None:
        """Start the server and the validate process in the background, unless they run already."""
        if not self.wanted:
            return
        if self._starting is None:
            self._folder = _scratch(self._build)
            (self._folder / "repository").mkdir()
            self._starting = self._worker.submit(self._enter)
        if self._golden is None:
            self._golden = GoldenCheck()

    def prove(self, job: Job, text: str, versions: Mapping[int, Path]) -> dict[str, Any]:
        """Load a model and let it answer golden samples at batch 1 and max; `text` is its config.pbtxt, `versions` has their folders.

        Returns:
            A JSON value for build.json; ``skipped`` says why nothing was loaded.

        Raises:
            StageError: stage 'serve': it does not load, or an answer is wrong or missing.
            MachineError: There is no server here (exit 3).
        """
        if not self.wanted:
            return {"skipped": FLAG}
        self.start()
        server, began = self._server(job), time.perf_counter()
        too_new = serve_fields.version_faults(job.model.serve, _version(server), job.model.where)
        if too_new:
            return {"skipped": f"the server here is {server.version}: {too_new[0].what}"}
        folder = self._folder / "repository" / job.model.name
        try:
            _assemble(folder, text, versions)
            self._load(job, server)
            checks = self._check(job, server)
        finally:
            self._unload(server, folder)
        return {"server": server.version, "checks": checks, "seconds": round(time.perf_counter() - began, 3)}

    def _enter(self) -> ServerInfo:
        pool = [f"--cuda-memory-pool-byte-size=0:{_POOL_BYTES}"] if devices() else []
        flags = ["--model-control-mode=explicit", "--model-repository", str(self._folder / "repository"),
                 "--exit-timeout-secs=0", "--allow-grpc=false", *pool]  # fmt: skip
        server = own_server(*flags, file=self._folder / "server.json", log=self._folder / "serving.txt")
        return self._stack.enter_context(server)

    def _server(self, job: Job) -> ServerInfo:
        assert self._starting is not None
        try:
            return self._starting.result()
        except MachineError as error:
            self._stop()
            raise MachineError(_no_server(job, error)) from None

    def _load(self, job: Job, server: ServerInfo) -> None:
        try:
            TritonAdmin.of(server).load(job.model.name, timeout_s=LOAD_S)
        except UnreachableError as error:
            why = f"the server ended while it loaded the model ({error}): {_log_tail(server)}"
            self._stop()
            raise _failed(job, "does not load in the server found here", why) from None
        except RefusedError as error:
            raise _failed(job, "does not load in the server found here", str(error)) from None

    def _check(self, job: Job, server: ServerInfo) -> int:
        answers, self._golden = self._golden or GoldenCheck(), None
        try:
            return answers.check(job.model.name, self._folder / "repository", self._folder / "server.json")
        except UnansweredError as error:
            why = str(error)
            if ServerInfo.read(self._folder / "server.json") is None:
                why = f"the server ended while it answered: {_log_tail(server)}"
            failure = "loads, but its answers do not match the golden samples"
            raise _failed(job, failure, why) from None
        finally:
            answers.close()

    def _unload(self, server: ServerInfo, folder: Path) -> None:
        if self._starting is not None:
            try:
                TritonAdmin.of(server).unload(folder.name)
            except RefusedError:
                self._stop()  # the next model gets another server
        shutil.rmtree(folder, ignore_errors=True)

    def _stop(self) -> None:
        """End the server and remove its folder; the next `start` begins with another one."""
        if self._starting is None:
            return
        try:
            self._starting.exception()  # waits for a start that is under way
            self._stack.close()
        finally:
            self._starting = None
            shutil.rmtree(self._folder, ignore_errors=True)


def _scratch(build: Path) -> Path:
    """Return a fresh folder beside the staged files, elsewhere only where the server could not take its path."""
    folder = build.resolve() / ".staging" / f"trial-{os.getpid()}"
    if not _SAFE.fullmatch(str(folder)):
        return Path(tempfile.mkdtemp(prefix="planwright-trial-"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _assemble(folder: Path, text: str, versions: Mapping[int, Path]) -> None:
    config = parse(text)
    for group in config.instance_group:
        group.count = 1
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(config_pbtxt.printed(config))
    for version, source in versions.items():
        shutil.copytree(source, folder / str(version), copy_function=_link)
        (folder / str(version) / GOLDEN).unlink()  # a link to the published file
        _few(Golden.load(source / GOLDEN)).save(folder / str(version) / GOLDEN)
    for source in versions.values():
        if (source.parent / "warmup").is_dir():
            shutil.copytree(source.parent / "warmup", folder / "warmup", copy_function=_link, dirs_exist_ok=True)


def _few(golden: Golden) -> Golden:
    def size(group: Group) -> int:
        return sum(array[0, ...].size for array in group.inputs.values())

    groups = sorted(golden.groups, key=size)[:SHAPES]
    return Golden(tuple(group.take(range(min(len(group), SAMPLES))) for group in groups), golden.meta)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _version(server: ServerInfo) -> tuple[int, int]:
    major, minor, *_ = (int(part) for part in re.findall(r"\d+", server.version))
    return major, minor


def _log_tail(server: ServerInfo) -> str:
    try:
        lines = Path(server.log).read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return " ".join(line.strip() for line in lines if line.strip())[-500:]


def _no_server(job: Job, error: MachineError) -> Fault:
    fault = error.faults[0]
    fix = f"make setup; or publish without a trial load: {job.model.build_command('--no-trial-load')}"
    why = "\n".join(filter(None, [fault.what, fault.why]))
    what = "the trial load could not start a server"
    return Fault(what, why=why, fix=fix, check="python -m serving --help")


def _failed(job: Job, failure: str, why: str) -> StageError:
    anyway = job.model.build_command("--no-trial-load")
    fix = f"correct config.yaml according to the server's message; or publish anyway with: {anyway}"
    what = f"{job.model.name} {failure}; nothing was published"
    return StageError("serve", Fault(what, serve_check.place_of(job.model, why), why, fix, job.model.build_command()))
