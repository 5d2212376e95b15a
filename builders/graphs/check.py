"""An ONNX file that every later stage can trust.

In      a file that an exporter or a user wrote.
Out     the same graph, checked in full, with an IR version that the runtime reads and the opset read back.

onnx 1.23 writes IR 14 and onnxruntime 1.31 reads up to 13; the dynamo exporter can stay at opset 18 when 17 is requested.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from builders.error_log import reason
from builders.graphs import external_data, facts
from planwright.errors import Fault, StageError

MAX_IR_VERSION = 10  # of ONNX 1.16; read by every runtime from ONNX Runtime 1.18 and TensorRT 8.6 on
INLINE_LIMIT_BYTES = 1_900_000_000  # protobuf messages end at 2 GiB; above, weights stay beside the graph


def command(path: Path) -> str:
    """Return the command that prints the full report of ONNX's checker."""
    return shlex.join(["python", "-c", f"import onnx; onnx.checker.check_model({str(path)!r}, full_check=True)"])


def opset_of(model: Any) -> int:
    return int(next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx")))


def load_checked(path: Path) -> Any:
    """Return the ModelProto with its weights; raises StageError if it or a weights file is incomplete, or onnx.checker refuses it."""
    import onnx

    try:
        external_data.check(path)
        model = onnx.load(str(path))
        external_data.load(model, path.parent)
    except StageError:
        raise
    except Exception as error:  # protobuf and onnx share no error class
        fix = "the file is truncated or not ONNX: re-export it"
        raise StageError("onnx", Fault("not a complete ONNX file", str(path), reason(error), fix)) from None
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # checker and shape inference raise unrelated classes
        fault = Fault("the graph is not valid ONNX", str(path), reason(error), "re-export it", command(path))
        raise StageError("onnx", fault) from None
    return model


def rewrite(model: Any, path: Path) -> None:
    """Write `model`, in one file if it fits, with an IR version that runtimes read."""
    import onnx

    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    large = model.ByteSize() > INLINE_LIMIT_BYTES
    onnx.save_model(model, str(path), save_as_external_data=large, location=f"{path.name}.data" if large else None)


def check_opset(model: Any, requested: int, where: str, newest: int) -> int:
    """Return the opset of the graph; raises StageError if it is not the requested one, or newer than the target supports."""
    found = opset_of(model)
    if requested and found != requested:
        why = f"{requested} was requested; the exporter left the graph at {found} because it cannot convert it down"
        fix = f"set export.opset to {found}, or use exporter: torchscript"
        raise StageError("onnx", Fault("the exporter chose another opset", where, why, fix))
    if found > newest:
        why, fix = f"its parser supports opsets up to {newest}", f"export with opset {newest} or lower"
        raise StageError("onnx", Fault(f"opset {found} is too new for the target", where, why, fix))
    return found


def make_portable(model: Any) -> bool:
    """Replace English locales in place; return whether there were any.

    ONNX Runtime cannot load a StringNormalizer whose locale is not installed, and slim images have none; the operator's default, which
    skl2onnx writes too, is en_US (https://onnx.ai/onnx/operators/onnx__StringNormalizer.html). C.UTF-8 is part of glibc since 2.35 and
    changes case as the English locales do; others, such as tr_TR, do not and stay.
    """
    import onnx

    changed = False
    for node in facts.nodes(model.graph):
        if node.op_type == "StringNormalizer":
            given = next((item for item in node.attribute if item.name == "locale"), None)
            if given is None:
                given = node.attribute.add(name="locale", type=onnx.AttributeProto.STRING)
            if not given.s or given.s.startswith(b"en"):
                given.s, changed = b"C.UTF-8", True
    return changed
