"""Which line of config.yaml a sentence of Triton's is about.

In      a model's `serve`, the sentence.
Out     the place of the field that the sentence speaks of, else of the model.
"""

from __future__ import annotations

from collections.abc import Iterator

from planwright.config.spec import ModelSpec

# what Triton's sentences say, where it is not the field's own name
_WORDS = {
    "model_warmup": ("warmup", "warm-up"),
    "instance_group": ("instance group", "gpu id"),
    "dynamic_batching": (
        "dynamic batching",
        "priority",
        "queue policy",
        "preserve_ordering",
        "timeout expired",
        "queue size",
    ),
    "sequence_batching": ("sequence batching", "sequence slot"),
    "response_cache": ("response cache",),
    "optimization": ("execution accelerator", "cuda graph"),
}


def of(model: ModelSpec, sentence: str) -> str:
    """Return ``config.yaml:14  models.m.serve.model_warmup``."""
    said = sentence.lower()
    for loc, words in _fields(model):
        if any(word in said for word in words):
            return model.where("serve", *loc)
    return model.where()


def _fields(model: ModelSpec) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    parameters = model.serve.get("parameters")
    for name in parameters if isinstance(parameters, dict) else ():
        yield ("parameters", name), (str(name).lower(),)
    for key in model.serve:
        yield (key,), (key.lower(), *_WORDS.get(key, ()))
