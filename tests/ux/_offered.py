"""Every command that an error or a table suggests, read from the source: strings outside docstrings, and calls of `ModelSpec.command`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.ux._checkout import ROOT, package_files

COMMAND = re.compile(
    r"(?:python (?:-m [\w.]+|builders/\w+\.py|-c)|make (?:setup|demo|quick|test|clean|check|lint)[\w-]*|docker (?:compose|run|info)|\bss -|df -h"
    r"|apt-get install|(?:\.venv/bin/)?pip install|locust -f)[^;,)`\n]*"
)
PACKAGES = ("planwright", "builders", "clients", "serving", "measure", "loadtest", "deploy")


def offered() -> dict[str, str]:
    """Return command -> the first place that suggests it; a part that is known only at run time is ``{}``."""
    found: dict[str, str] = {}
    for path in package_files():
        if path.parts[0] in PACKAGES:
            for line, command in _commands(ast.parse((ROOT / path).read_text())):
                found.setdefault(command.strip().rstrip("."), f"{path}:{line}")
    return found


def _commands(tree: ast.Module) -> Iterator[tuple[int, str]]:
    skipped = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = (node.body for node in ast.walk(tree) if isinstance(node, owners))
    skipped |= {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in skipped:
            yield from ((node.lineno, command) for command in COMMAND.findall(_text(node)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            words = " ".join(_text(argument) or "{}" for argument in node.args)
            if node.func.attr == "build_command":
                yield node.lineno, f"python builders/build_all.py {{}} {words}"
            if node.func.attr == "command" and words.startswith("-m "):
                yield node.lineno, f"python {words} {{}}"


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
