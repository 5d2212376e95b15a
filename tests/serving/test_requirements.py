"""The extra ``serve`` of pyproject.toml has everything that ``python -m serving`` imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from planwright.own_server import free_ports
from tests import _models
from tests.ux._checkout import ROOT

# Refuses every import of a package outside the list, as an environment without it would.
RUN = """
import json, sys
hidden = set(json.loads(sys.argv[1]))
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
from planwright import console
from serving.__main__ import main
console.run(main, sys.argv[2:])
"""


def closure(requirements: list[str]) -> set[str]:
    """Return the installed distributions that pip brings for these requirements."""
    found: set[str] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        item, extra = waiting.pop()
        if item.marker is not None and not item.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(item.name)
        extras = item.extras or {""}
        if all(f"{name}[{each}]" in found for each in extras):
            continue
        found |= {name, *(f"{name}[{each}]" for each in extras)}
        try:
            waiting += [(Requirement(text), each) for text in requires(name) or [] for each in {"", *extras}]
        except PackageNotFoundError:
            continue  # for another platform
    return {name for name in found if "[" not in name}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is new in Python 3.11")
def test_the_extra_is_enough_for_the_launcher(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = closure([*project["dependencies"], *project["optional-dependencies"]["serve"]])
    hidden = [
        package
        for package, names in packages_distributions().items()
        if not installed & {canonicalize_name(name) for name in names}
    ]
    assert {"torch", "pydantic", "yaml", "locust"} <= set(hidden)
    broken = _models.adder(tmp_path / "models") / "config.pbtxt"
    broken.write_text(broken.read_text().replace("max_batch_size: 8", "max_batch_size: -1"))
    flags = [f"--model-repository={tmp_path / 'models'}", f"--server-file={tmp_path / 'server.json'}"]
    ports = [f"--{name}-port={port}" for name, port in zip(("http", "grpc", "metrics"), free_ports(), strict=True)]
    command = [sys.executable, "-c", RUN, json.dumps(hidden), *flags, *ports]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr  # it started, and no model could be loaded
    assert re.search("model 'adder' could not be loaded", done.stderr), done.stderr
