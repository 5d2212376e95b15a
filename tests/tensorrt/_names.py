"""Which names of TensorRT's Python API our code uses, read from the source itself.

In      the text of a module.
Out     `chains` (``BuilderFlag.TF32`` and the like, with the major versions that reach them) and `calls` (what is done to
        objects that TensorRT hands out, such as ``config.set_flag`` with one argument).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

MAJORS = (8, 10, 11)
ROOTS = ("trt", "self.trt")
# builders.targets.tensorrt.versions: what a class says of itself alone
OWN = {"Version8": (8,), "Version10": (10,)}


@dataclass(frozen=True)
class Use:
    """One place in the source.

    Attributes:
        name: ``BuilderFlag.TF32``, or ``IBuilderConfig.set_flag``.
        line: Line in the file.
        majors: Major versions whose builds reach it.
        arguments: How many are passed; None where it is no call, or where a ``*`` hides the number.
    """

    name: str
    line: int
    majors: tuple[int, ...]
    arguments: int | None = None


def chains(text: str) -> list[Use]:
    """Return every chain below ``trt`` or ``self.trt``, also through a variable: ``flag = trt.BuilderFlag``."""
    tree = ast.parse(text)
    short = _short_names(tree)
    found = []
    for node, owner, function in _outermost(tree):
        name = _below(ast.unparse(node), short)
        if name:
            found.append(Use(name, node.lineno, _majors(tree, owner, function)))
    return found


def calls(text: str, receivers: dict[str, str]) -> list[Use]:
    """Return what is read from or called on `receivers`: source text of an object -> its class in TensorRT."""
    tree = ast.parse(text)
    arguments = {
        id(node.func): None
        if any(isinstance(item, ast.Starred) for item in node.args)
        else len(node.args) + len(node.keywords)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }
    return [
        Use(f"{receivers[ast.unparse(node.value)]}.{node.attr}", node.lineno, _majors(tree, owner, function),
            arguments.get(id(node)))
        for node, owner, function in _attributes(tree)
        if ast.unparse(node.value) in receivers
    ]  # fmt: skip


def _attributes(tree: ast.Module) -> Iterator[tuple[ast.Attribute, str, str]]:
    """Yield (attribute, class, function) for the whole module; the outermost class and its method count."""

    def walk(node: ast.AST, owner: str, function: str) -> Iterator[tuple[ast.Attribute, str, str]]:
        for child in ast.iter_child_nodes(node):
            inner_owner, inner_function = owner, function
            if isinstance(child, ast.ClassDef):
                inner_owner = owner or child.name
            elif isinstance(child, ast.FunctionDef):
                inner_function = function or child.name
            elif isinstance(child, ast.Attribute):
                yield child, owner, function
            yield from walk(child, inner_owner, inner_function)

    return walk(tree, "", "")


def _outermost(tree: ast.Module) -> Iterator[tuple[ast.Attribute, str, str]]:
    """Leave out the shorter chains inside longer ones."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return (found for found in _attributes(tree) if id(found[0]) not in inner)


def _below(text: str, short: dict[str, str]) -> str:
    """Return what follows the root of a chain, "" where it is none of TensorRT's."""
    for root, meant in [(root, "") for root in ROOTS] + list(short.items()):
        if text.startswith(f"{root}."):
            rest = text[len(root) + 1 :]
            return f"{meant}.{rest}" if meant else rest
    return ""


def _short_names(tree: ast.Module) -> dict[str, str]:
    """Return variable -> chain for assignments such as ``flag = trt.BuilderFlag`` and ``a, flag = x, trt.BuilderFlag``."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target, value in _pairs(node.targets[0], node.value):
                name = _below(ast.unparse(value), {}) if isinstance(value, ast.Attribute) else ""
                if name and name[0].isupper():  # a class or an enumeration, not a value such as __version__
                    found[ast.unparse(target)] = name
    return found


def _pairs(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return list(zip(target.elts, value.elts, strict=True))
    return [(target, value)]


def _majors(tree: ast.Module, owner: str, function: str) -> tuple[int, ...]:
    """Return which versions reach the code: a method of the base class is not reached where a subclass has its own."""
    if owner in OWN:
        return OWN[owner]
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if owner != "Version":
        return MAJORS
    replaced = {OWN[name][0] for name in OWN if name in classes and function in _own_methods(classes[name])}
    return tuple(major for major in MAJORS if major not in replaced)


def _own_methods(node: ast.ClassDef) -> set[str]:
    """Return the methods that do not go on to the base class's."""
    methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    return {item.name for item in methods if "super()" not in ast.unparse(item)}
