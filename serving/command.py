"""tritonserver's command line and environment.

In      `Options`, the machine's server and Python, a backend folder, and the names that tell this server from others.
Out     the words to run and the environment to run them in.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from planwright.gpu import devices
from planwright.server_info import ADMIN_HEADER
from serving import repository
from serving.options import Options
from serving.preflight import Machine

_RESTRICTED = "model-repository,trace,logging"
_CACHE_BYTES = 64 << 20
_CUDA_POOL_BYTES = 1 << 30


@dataclass(frozen=True)
class Identity:
    """What tells this server from all others: ``--id``, the admin key, the prefix of its shared memory."""

    id: str
    admin_key: str

    @property
    def shm_prefix(self) -> str:
        """Every region of this server's model processes begins with it."""
        return f"{self.id}_"


def words(options: Options, machine: Machine, identity: Identity, backends: Path | None) -> list[str]:
    """Return the command; the user's own flags come last, because tritonserver takes the last of two."""
    closed = _RESTRICTED if options.client_shm else f"{_RESTRICTED},shared-memory"
    key = f"{ADMIN_HEADER}={identity.admin_key}"
    http, grpc, metrics = options.ports
    return [
        str(machine.installation.binary),
        f"--model-repository={options.repository.resolve()}",
        f"--id={identity.id}",
        f"--model-control-mode={options.mode if options.good is None else 'explicit'}",
        *(f"--load-model={name}" for name in (options.load if options.good is None else options.good)),
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


def _client_shm(options: Options, machine: Machine) -> list[str]:
    """Servers from 26.04 on need a flag of their own, which older ones refuse; their help says which they are."""
    if not options.client_shm or not machine.installation.native:
        return []
    told = subprocess.run([machine.installation.binary, "--help"], capture_output=True, text=True, check=False)
    return ["--allow-client-shm=true"] if "--allow-client-shm" in told.stdout + told.stderr else []


def _gpu(options: Options) -> list[str]:
    """Give tensors that come in GPU memory room on their way to the models: the default of 64 MiB holds six batches of 64 pictures."""
    if not devices() or any(flag.startswith("--cuda-memory-pool-byte-size") for flag in options.extra):
        return []
    return [f"--cuda-memory-pool-byte-size=0:{_CUDA_POOL_BYTES}"]


def _cache(options: Options, folder: Path) -> list[str]:
    given = any(flag.startswith("--cache-config") for flag in options.extra)
    found = []
    if not given and repository.wants_cache(options.repository):
        found.append(f"--cache-config=local,size={_CACHE_BYTES}")
    if (given or found) and not any(flag.startswith("--cache-directory") for flag in options.extra):
        found.append(f"--cache-directory={folder}")
    return found


def environment(machine: Machine) -> dict[str, str]:
    """Return the environment of the server and, through it, of the stubs.

    The stubs' ``bin`` is first on PATH, because a stub takes its packages from whichever python3 it finds there and
    ignores PYTHONPATH; libpython and the wheel's libraries are named, because a copied stub does not find them itself.
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
