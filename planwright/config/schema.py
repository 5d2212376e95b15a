"""The JSON schema of config.yaml, for editors: ``python -m planwright.config.schema > docs/config.schema.json``.

In      the spec's own types and Triton's ModelConfig message.
Out     JSON on standard output.
"""

from __future__ import annotations

from typing import Any

from planwright import console
from planwright.config import serve_fields
from planwright.config.spec import ConfigFile


def schema() -> dict[str, Any]:
    """Return the schema; `serve` completes the names of Triton's fields."""
    found = ConfigFile.model_json_schema()
    entry = found["$defs"]["ModelEntry"]["properties"]
    serve = {"type": "object", "description": entry["serve"]["description"], "additionalProperties": False,
             "properties": {name: {} for name in serve_fields.field_names()}}  # fmt: skip
    entry["serve"] = serve
    entry["samples"] = {"anyOf": [entry["samples"], {"type": "string", "description": "npz file with real samples"}]}
    found["title"] = "Planwright config.yaml"
    return found


if __name__ == "__main__":
    console.emit_json(schema())
