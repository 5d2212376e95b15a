"""``python -m clients`` as a user runs it.

In      its arguments.
Out     the finished process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from planwright.server_info import ServerInfo
from tests._server import ROOT


def where(server: ServerInfo, repository: Path) -> list[str]:
    """Return the flags that point a command to a server."""
    return ["--url", server.http_url, "--grpc-url", server.grpc_url, "--repository", str(repository)]


def clients(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-m", "clients", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120
    )
