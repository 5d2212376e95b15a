"""tritonserver's command line and environment.

In      `ServeOptions`, the machine's server and Python, a backend folder, and the names that identify this server.
Out     the command, and the environment to run it in.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from planwright.gpu import devices
from planwright.server_info import ADMIN_HEADER
from serving import repository
from serving.options import ServeOptions
from serving.preflight import Machine

_RESTRICTED = "model-repository,trace,logging"
_CACHE_BYTES = 64 << 20
_CUDA_POOL_BYTES = 1 << 30


@dataclass(frozen=True)
class Identity:
    """What identifies this server: ``--id``, the admin key, the prefix of its shared memory."""

    id: str
    admin_key: str

    @property
    def shm_prefix(self) -> str:
        return f"{self.id}_"


def arguments(options: ServeOptions, machine: Machine, identity: Identity, backends: Path | None) -> list[str]:
    """Return the command; the user's own flags come last, because tritonserver uses the last of two."""
    closed = _RESTRICTED if options.client_shm else f"{_RESTRICTED},shared-memory"
    key = f"{ADMIN_HEADER}={identity.admin_key}"
    http, grpc, metrics = options.ports
    mode, load = (options.mode, options.load) if options.accepted is None else ("explicit", options.accepted)
    return [
        str(machine.installation.binary),
        f"--model-repository={options.repository.resolve()}",
        f"--id={identity.id}",
        f"--model-control-mode={mode}",
        *(f"--load-model={name}" for name in load),
        f"--http-address={options.host}", f"--http-port={http}",
        f"--grpc-address={options.host}", f"--grpc-port={grpc}",
        f"--metrics-address={options.host}", f"--metrics-port={metrics}",
        "--disable-auto-complete-config",
        "--exit-on-error=false",
        "--strict-readiness=true",
        f"--exit-timeout-secs={options.exit_timeout_s}",
        "--allow-sagemaker=false", "--allow-vertex-ai=false",
        f"--http-restricted-api={closed}:{key}",
        f"--grpc-restricted-protocol={closed}:{key}",
        f"--backend-config=python,shm-region-prefix-name={identity.shm_prefix}",
        *([f"--backend-directory={backends}"] if backends else []),
        *_client_shm(options, machine),
        *_gpu(options),
        *_cache(options, machine.installation.home / "caches"),
        *options.extra,
    ]  # fmt: skip


def _client_shm(options: ServeOptions, machine: Machine) -> list[str]:
    """Servers from 26.04 on need a flag that older ones reject; their help lists it."""
    if not options.client_shm or not machine.installation.native:
        return []
    usage = subprocess.run([machine.installation.binary, "--help"], capture_output=True, text=True, check=False)
    return ["--allow-client-shm=true"] if "--allow-client-shm" in usage.stdout + usage.stderr else []


def _gpu(options: ServeOptions) -> list[str]:
    """Enlarge the pool for tensors that arrive in GPU memory: the default of 64 MiB holds six batches of 64 images."""
    if not devices() or _given(options, "--cuda-memory-pool-byte-size"):
        return []
    return [f"--cuda-memory-pool-byte-size=0:{_CUDA_POOL_BYTES}"]


def _cache(options: ServeOptions, folder: Path) -> list[str]:
    given = _given(options, "--cache-config")
    found = []
    if not given and repository.wants_cache(options.repository):
        found.append(f"--cache-config=local,size={_CACHE_BYTES}")
    if (given or found) and not _given(options, "--cache-directory"):
        found.append(f"--cache-directory={folder}")
    return found


def _given(options: ServeOptions, name: str) -> bool:
    return any(flag.startswith(name) for flag in options.extra)


def environment(machine: Machine) -> dict[str, str]:
    """Return the environment of the server and, through it, of the stubs.

    The stubs' ``bin`` is first on PATH, because a stub imports packages from whichever python3 it finds there and
    ignores PYTHONPATH; libpython and the wheel's libraries are listed, because a copied stub does not find them itself.
    """
    values = dict(os.environ)
    if machine.python is None:
        return values
    folders = [machine.python.library, *machine.installation.libraries]
    libraries = [str(folder) for folder in folders if folder.is_dir()]
    values["LD_LIBRARY_PATH"] = ":".join([*libraries, *filter(None, [values.get("LD_LIBRARY_PATH")])])
    values["PATH"] = f"{machine.python.bin}:{values.get('PATH', '')}"
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
        values.pop(name, None)
    return values
