"""Read config.pbtxt: the one reader, and the names of the parameters that Planwright writes there.

In      a model's folder, or the text of its config.pbtxt.
Out     Triton's own ModelConfig message, and what follows from it: the served versions, the SLO.

protobuf reads the text, so comments, quotes, order and spacing do not matter. tritonclient's message is imported when a
file is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planwright.integrity import CONFIG, read_text, versions_in

# names under `parameters`, which every server passes on unread
FIXED_BATCH = "planwright_fixed_batch"  # batch of a static engine: clients pad to it and split
SCALARS = "planwright_scalars"  # JSON list: scalars of a model without a batch axis, for which Triton has no empty dims
SLO_P99_MS = "planwright_slo_p99_ms"


def parse(text: str, *, allow_unknown: bool = False) -> Any:
    """Return the ModelConfig message of a config.pbtxt.

    Args:
        text: All of the file.
        allow_unknown: Pass over fields that the installed tritonclient does not know: a newer server may.

    Raises:
        ValueError: The text is not a ModelConfig; names the line.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig(), allow_unknown_field=allow_unknown)
    except (text_format.ParseError, RecursionError) as error:
        raise ValueError(str(error)) from None


def read(model: Path) -> Any | None:
    """Return the ModelConfig message of a model's folder, without fields that are not known here; None where it cannot be read."""
    text = read_text(model / CONFIG)
    try:
        return parse(text, allow_unknown=True) if text else None
    except ValueError:
        return None


def served(model: Path) -> list[int]:
    """Return the versions that Triton serves from a model's folder, oldest first; all of them where config.pbtxt cannot be read."""
    config, found = read(model), versions_in(model)
    if config is None:
        return found
    policy = config.version_policy
    if policy.HasField("specific"):
        return specific(config)
    return found if policy.HasField("all") else found[-max(policy.latest.num_versions, 1) :]


def specific(config: Any) -> list[int]:
    """Return the versions that a ModelConfig message names, oldest first."""
    return sorted(set(config.version_policy.specific.versions))


def slo_p99_ms(config: Any) -> float | None:
    """Return the SLO of a ModelConfig message; None where it has none."""
    text = config.parameters[SLO_P99_MS].string_value if SLO_P99_MS in config.parameters else ""
    return float(text) if text else None
