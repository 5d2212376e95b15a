"""One tritonserver process: its command line, its environment, its end.

In      `Options`.
Out     a started, identified server; afterwards no process and no shared memory of it.

Odd lines: ``--id`` and a comparison at ``/v2``, because on a taken port the answer comes from another server; the stubs'
``bin`` first on PATH, because the stub takes its packages from whichever python3 it finds there and ignores PYTHONPATH;
PR_SET_PDEATHSIG, so that a killed launcher leaves no server behind.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from planwright.errors import Fault, PlanwrightError, StageError
from serving import api, backend_folder
from serving.find import find_server, find_stub_python
from serving.preflight import SHM, models_in

EXIT_TIMEOUT_S = 5
_PR_SET_PDEATHSIG = 1
# Lines after which server 2.51 waits for a dead stub without end.
_FATAL = re.compile(r"error while loading shared libraries|stol\b|Permission denied.*stub|bad_alloc|Failed to preinitialize Python")
_RESTRICTED = "model-repository,trace,logging"


@dataclass(frozen=True)
class Options:
    """What to serve and how.

    Attributes:
        repository: Model repository.
        mode: ``none`` or ``explicit``.
        ports: http, grpc, metrics.
        host: Address that all three bind to.
        client_shm: Whether clients may register shared memory.
        start_timeout_s: Time until all models must be loaded.
        log: Where the server's own output goes.
        extra: Further flags of tritonserver, passed on as they are.
    """

    repository: Path
    mode: str
    ports: tuple[int, int, int]
    host: str
    client_shm: bool
    start_timeout_s: float
    log: Path
    extra: Sequence[str] = ()


@dataclass
class Server:
    """A running tritonserver."""

    process: subprocess.Popen[bytes]
    options: Options
    id: str
    admin_key: str
    shm_prefix: str
    backends: Path | None
    version: str = ""
    _ended: bool = field(default=False)

    @property
    def http_url(self) -> str:
        """``host:port`` of HTTP; a server that listens everywhere is asked on the loopback."""
        return f"{_reachable(self.options.host)}:{self.options.ports[0]}"

    @property
    def headers(self) -> dict[str, str]:
        """Headers that open the restricted APIs."""
        return {"admin-key": self.admin_key}

    def wait_ready(self) -> list[dict[str, str]]:
        """Wait until the server answers under its own id; return the repository index.

        Raises:
            PlanwrightError: It ended, a stub cannot start, or time ran out; the server is gone then.
        """
        deadline = time.monotonic() + self.options.start_timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise self._failed("tritonserver ended while starting", "")
            if _FATAL.search(self._log_text()):
                raise self._failed("a model's process cannot start", "make setup, which makes the server's environment anew")
            metadata = api.ask(f"http://{self.http_url}/v2", timeout_s=2)
            if metadata and metadata.get("name") == self.id:
                self.version = str(metadata.get("version", ""))
                return api.index(self.http_url, self.headers) or []
            time.sleep(0.1)
        raise self._failed(f"the models were not loaded within {self.options.start_timeout_s:g} s", "give --start-timeout-s more, or look into the log")

    def _log_text(self) -> str:
        return self.options.log.read_text(errors="replace") if self.options.log.exists() else ""

    def _failed(self, what: str, fix: str) -> PlanwrightError:
        self.stop()
        lines = [line for line in self._log_text().splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"^E\d{4} |error:|.*(error while|Traceback|Error:)", line)]
        why = "\n".join((errors or lines)[-6:])
        return StageError("serve", Fault(what, str(self.options.log), why, fix or "see the log"))

    def stop(self) -> int:
        """End the server, by force after its exit time-out; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(EXIT_TIMEOUT_S + 5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.clean()
        return self.process.returncode

    def kill(self) -> None:
        """End the server at once."""
        self.process.kill()
        self.process.wait()
        self.clean()

    def clean(self) -> None:
        """Remove this server's shared memory and its backend folder; nobody else's."""
        if self._ended:
            return
        self._ended = True
        if SHM.is_dir():
            for region in SHM.glob(f"{self.shm_prefix}*"):
                region.unlink(missing_ok=True)
        if self.backends is not None:
            shutil.rmtree(self.backends, ignore_errors=True)


def _reachable(host: str) -> str:
    return "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 - compared, not bound


def start(options: Options) -> Server:
    """Start tritonserver; `Server.wait_ready` comes next.

    Raises:
        MachineError: No server, no stub environment (exit 3).
    """
    installation = find_server()
    backends, environment = None, dict(os.environ)
    if not installation.native:
        python = find_stub_python()
        backends = backend_folder.make(installation, python)
        libraries = [str(folder) for folder in (python.library, *installation.libraries) if folder.is_dir()]
        environment["LD_LIBRARY_PATH"] = ":".join([*libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
        environment["PATH"] = f"{python.bin}:{environment.get('PATH', '')}"
        for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            environment.pop(name, None)
    server_id = f"planwright-{secrets.token_hex(6)}"
    key, prefix = secrets.token_hex(16), f"{server_id}_"
    command = [str(installation.binary), *_flags(options, server_id, key, prefix, backends, installation.home)]
    options.log.parent.mkdir(parents=True, exist_ok=True)
    with options.log.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command line
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
            start_new_session=True, preexec_fn=_die_with_parent,
        )  # fmt: skip
    return Server(process, options, server_id, key, prefix, backends)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _flags(options: Options, server_id: str, key: str, prefix: str, backends: Path | None, home: Path) -> list[str]:
    http, grpc, metrics = options.ports
    closed = _RESTRICTED if options.client_shm else f"{_RESTRICTED},shared-memory"
    flags = [
        f"--model-repository={options.repository.resolve()}",
        f"--id={server_id}",
        f"--model-control-mode={options.mode}",
        f"--http-address={options.host}", f"--http-port={http}",
        f"--grpc-address={options.host}", f"--grpc-port={grpc}",
        f"--metrics-address={options.host}", f"--metrics-port={metrics}",
        "--disable-auto-complete-config",
        "--exit-on-error=false",
        "--strict-readiness=true",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        "--allow-sagemaker=false", "--allow-vertex-ai=false",
        f"--http-restricted-api={closed}:admin-key={key}",
        f"--grpc-restricted-protocol={closed}:admin-key={key}",
    ]  # fmt: skip
    if backends is not None:
        flags += [f"--backend-directory={backends}", f"--backend-config=python,shm-region-prefix-name={prefix}"]
    if _wants_cache(options.repository) and not any(flag.startswith("--cache-config") for flag in options.extra):
        flags += ["--cache-config=local,size=67108864", f"--cache-directory={home / 'caches'}"]
    return [*flags, *options.extra]


def _wants_cache(repository: Path) -> bool:
    """True where a model asks for the response cache, which is off in silence without --cache-config."""
    texts = (repository / name / "config.pbtxt" for name in models_in(repository))
    return any(re.search(r"response_cache\s*\{\s*enable:\s*true", path.read_text()) for path in texts if path.is_file())
