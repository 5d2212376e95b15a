"""English locales in a graph, which not every machine has.

In      a ModelProto.
Out     the same, with ``C.UTF-8`` where a StringNormalizer asks for an English locale or for none.

ONNX Runtime refuses to load such a graph where the locale is not installed, and slim images have none; the operator's own default, which
skl2onnx writes too, is en_US (https://onnx.ai/onnx/operators/onnx__StringNormalizer.html). C.UTF-8 is part of glibc since 2.35 and changes
case as the English locales do; others, such as tr_TR, do not and are left alone.
"""

from __future__ import annotations

from typing import Any

from builders.graphs.facts import nodes

EVERYWHERE = "C.UTF-8"


def make_portable(model: Any) -> bool:
    """Replace English locales in place; returns whether there were any."""
    import onnx

    changed = False
    for node in nodes(model.graph):
        if node.op_type == "StringNormalizer":
            given = next((item for item in node.attribute if item.name == "locale"), None)
            if given is None:
                given = node.attribute.add(name="locale", type=onnx.AttributeProto.STRING)
            if not given.s or given.s.startswith(b"en"):
                given.s, changed = EVERYWHERE.encode(), True
    return changed
