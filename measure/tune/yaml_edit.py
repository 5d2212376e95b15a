"""Replace or add one value of a YAML file, leaving every other byte as it is.

In      the text, the path of keys to the value, the value.
Out     the text with that one value changed.

A round trip through a YAML library rewrites the whole file: quotes, line breaks and the spaces inside ``{a: 1}`` come out in
its own style. PyYAML reports where each value begins and ends, so only those characters are changed. Two subtleties: the end
it reports for a block is where the next node begins, after comments, so ends are taken from the last leaf; and
an alias (``*name``) is the same node object as its anchor, so it is recognised by its position before its own key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from planwright.errors import Fault, SpecError

Path = Sequence[str | int]


def put(text: str, path: Path, value: Any) -> str:
    r"""Return `text` with `value` at `path`; missing mappings on the way are added.

    Example:
        >>> put("a: {b: 1}  # kept\n", ("a", "c"), 2)
        'a: {b: 1, c: 2}  # kept\n'

    Raises:
        SpecError: The path leads through an alias or a plain value.
    """
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None:
        raise SpecError(Fault("the file is empty", ".".join(map(str, path))))
    for depth, part in enumerate(path):
        child = _child(node, part, path)
        if child is None:
            return _add(text, node, path[depth:], value)
        node = child
    return text[: node.start_mark.index] + flow(value) + text[_end(node) :]


def flow(value: Any) -> str:
    """Return a value on one line.

    Example:
        >>> flow([{"count": 2}]), flow(None)
        ('[{count: 2}]', 'null')
    """
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _child(node: yaml.Node, part: str | int, path: Path) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        return node.value[part] if part < len(node.value) else None
    if not isinstance(node, yaml.MappingNode):
        raise SpecError(_by_hand(path, node, "it is not a mapping"))
    for key, child in node.value:
        if key.value == part:
            if child.start_mark.index < key.end_mark.index:
                raise SpecError(_by_hand(path, key, f"{part} is an alias: other places would change too"))
            return child  # type: ignore[no-any-return]
    return None


def _by_hand(path: Path, node: yaml.Node, why: str) -> Fault:
    place = ".".join(map(str, path))
    return Fault(f"{place} cannot be changed in place", f"line {node.start_mark.line + 1}", why, "change it by hand")


def _end(node: yaml.Node) -> int:
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        key, value = last if isinstance(last, tuple) else (last, last)
        return max(key.end_mark.index, _end(value)) if value.start_mark.index >= key.start_mark.index else _end(key)
    found: int = node.end_mark.index
    return found


def _add(text: str, node: yaml.Node, path: Path, value: Any) -> str:
    """Add a key after the last one of a mapping, in its own style."""
    for part in reversed(path[1:]):
        value = {part: value}
    if not isinstance(node, yaml.MappingNode):
        raise SpecError(_by_hand(path, node, "it is not a mapping"))
    entry = f"{path[0]}: {flow(value)}"
    if node.flow_style:
        place = _end(node.value[-1][1]) if node.value else node.start_mark.index + 1
        return text[:place] + (", " if node.value else "") + entry + text[place:]
    place = text.find("\n", _end(node))
    if place < 0:
        text, place = text + "\n", len(text)
    return text[:place] + "\n" + " " * node.start_mark.column + entry + text[place:]
