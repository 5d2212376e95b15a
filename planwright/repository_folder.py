"""Where models are published: one answer for every command.

In      what the command line says, and the file of the server running here.
Out     the folder of the model repository, the first of these that applies:

    1. --repository
    2. model_repository beside the config.yaml that the command reads, or that --config names
    3. the repository of the server running here
    4. model_repository in the current folder, beside its config.yaml

A command that builds always reads a config.yaml, so a server that runs here never changes where it publishes.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from planwright.errors import Fault, MachineError
from planwright.server_info import SERVER_FILE, ServerInfo

_NAME = "model_repository"


def repository_folder(
    given: Path | None = None, server_file: Path | None = SERVER_FILE, *, config: Path | None = None
) -> Path:
    """Return the folder, which need not exist.

    Args:
        given: ``--repository``.
        server_file: The file that ``python -m serving`` writes; None where no server counts.
        config: The config.yaml that the command reads, or that ``--config`` names.
    """
    return _located(given, server_file, config)[0]


def require_repository(
    given: Path | None = None, server_file: Path | None = SERVER_FILE, *, config: Path | None = None
) -> Path:
    """Return the folder as `repository_folder` does.

    Raises:
        MachineError: There is none; says why it was looked for there (exit 3).
    """
    folder, why = _located(given, server_file, config)
    if folder.is_dir():
        return folder
    flag = f" --config {shlex.quote(str(config))}" if config else ""
    fix = f"python builders/build_all.py{flag}, or name the repository with --repository"
    raise MachineError(Fault("there is no model repository", str(folder), why, fix))


def _located(given: Path | None, server_file: Path | None, config: Path | None) -> tuple[Path, str]:
    if given is not None:
        return given, "it was named explicitly"
    if config is not None:
        return config.parent / _NAME, f"models of {config} are published beside it"
    info = ServerInfo.read(server_file) if server_file else None
    if info is not None:
        return Path(info.repository), f"the server running here serves it ({server_file})"
    return Path(_NAME), "no server runs here and no config was named, so it is looked for in the current folder"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--repository`` and ``--config`` for a command that reads what is published."""
    parser.add_argument("--config", type=Path, help="the config.yaml that the models were built from")
    default = "beside --config; else what the server running here serves; else model_repository"
    parser.add_argument("--repository", type=Path, help=f"where models are published (default: {default})")
