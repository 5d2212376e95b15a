"""YAML values that know their line.

In      the path of a YAML file.
Out     `Located` trees: plain values with the line that each came from, also after a merge.

PyYAML's `compose` returns nodes with positions; its SafeConstructor makes the values, so types are YAML's usual ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from planwright.errors import Fault, SpecError

Loc = tuple[str | int, ...]


@dataclass(frozen=True)
class Located:
    """A YAML value: `value` is a dict or list of Located, or a scalar; `line` counts from 1."""

    value: Any
    line: int

    def plain(self) -> Any:
        """Return the value without lines."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value

    def get(self, key: str) -> Located | None:
        """Return the item under `key` of a mapping, else None."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def line_of(self, loc: Iterable[str | int]) -> int:
        """Return the line of the deepest part of `loc` that exists."""
        node = self
        for part in loc:
            child = node._child(part)
            if child is None:
                break
            node = child
        return node.line

    def text_of(self, loc: Iterable[str | int]) -> str:
        """Return the scalar at `loc` as written in messages, or an empty string."""
        node: Located | None = self
        for part in loc:
            node = node._child(part) if node is not None else None
        scalar = node is not None and not isinstance(node.value, dict | list)
        return str(node.value) if node is not None and scalar else ""

    def _child(self, part: str | int) -> Located | None:
        if isinstance(self.value, dict):
            return self.value.get(part)
        if isinstance(self.value, list) and isinstance(part, int) and part < len(self.value):
            item: Located = self.value[part]
            return item
        return None


def overlay(base: Located | None, over: Located) -> Located:
    """Return `base` with `over` laid on top: mappings merge key by key, everything else is replaced."""
    if base is None or not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    merged = dict(base.value)
    for key, item in over.value.items():
        merged[key] = overlay(merged.get(key), item)
    return Located(merged, over.line)


def load_located(path: Path, twice: list[Fault] | None = None) -> Located:
    """Read a YAML file.

    Args:
        path: The file.
        twice: Collects the faults of keys that are given twice, for a caller that reports further mistakes with them.

    Raises:
        SpecError: The file is missing, is not YAML, is not a mapping, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SpecError(Fault(f"cannot read {path}", why=str(reason), fix="name the file with --config")) from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise SpecError(_broken(path, error)) from None
    except yaml.YAMLError as error:
        raise SpecError(Fault("not valid YAML", where=str(path), why=str(error))) from None
    faults: list[Fault] = []
    repeated: list[Fault] = []
    located = _NodeReader(path, faults, repeated).locate(root, ()) if root is not None else Located({}, 1)
    if not isinstance(located.value, dict):
        faults.append(Fault("the file must be a mapping", where=f"{path}:1", fix="begin with 'version: 1'"))
    if faults or (repeated and twice is None):
        raise SpecError(*repeated, *faults)
    if twice is not None:
        twice += repeated
    return located


def _broken(path: Path, error: yaml.MarkedYAMLError) -> Fault:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    why = " ".join(part for part in (error.context, error.problem) if part)
    return Fault("not valid YAML", where=f"{path}:{line}", why=why, fix="fix the indentation or quoting on this line")


@dataclass(frozen=True)
class _NodeReader:
    """Turns nodes into values; `faults` and `twice` collect what is wrong."""

    path: Path
    faults: list[Fault]
    twice: list[Fault]

    def locate(self, node: yaml.Node, within: tuple[yaml.Node, ...]) -> Located:
        line = node.start_mark.line + 1
        if any(node is outer for outer in within):
            why, fix = "an anchor that refers to itself never ends", "remove the alias (*name) in it"
            self.faults.append(Fault("a value contains itself", f"{self.path}:{line}", why, fix))
            return Located(None, line)
        if isinstance(node, yaml.MappingNode):
            return Located(self._items(node, (*within, node)), line)
        if isinstance(node, yaml.SequenceNode):
            return Located([self.locate(item, (*within, node)) for item in node.value], line)
        return Located(self._scalar(node), line)

    def _items(self, node: yaml.MappingNode, within: tuple[yaml.Node, ...]) -> dict[str, Located]:
        """Return the items; two mappings below one key become one, so that mistakes in either are found."""
        found: dict[str, Located] = {}
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            value = self.locate(value_node, within)
            # a mapping that opens on the next line is reported at its key
            value = Located(value.value, line if isinstance(value.value, dict | list) else value.line)
            if key in seen:
                why = f"it is already on line {seen[key]}; YAML would keep only the last"
                self.twice.append(Fault(f"the key '{key}' is specified twice", f"{self.path}:{line}", why, "keep one"))
            found[key] = overlay(found.get(key), value)
            seen[key] = line
        return found

    def _scalar(self, node: yaml.Node) -> Any:
        constructor = yaml.constructor.SafeConstructor()
        try:
            return constructor.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError) as error:
            where = f"{self.path}:{node.start_mark.line + 1}"
            self.faults.append(Fault("not a valid value", where=where, why=str(error)))
            return None


def as_mapping(node: Located | None) -> Mapping[str, Located]:
    """Return the items of a mapping node, or nothing."""
    return node.value if node is not None and isinstance(node.value, dict) else {}
