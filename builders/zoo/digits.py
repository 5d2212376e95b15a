"""digits: a small CNN on scikit-learn's 1797 handwritten digits, trained during export.

In      ``image`` uint8 [8, 8], values 0..16.
Out     ``scores`` FP32 [10], logits. Seeded: the same machine trains the same weights, in a few seconds.

Logits, not softmax: saturated probabilities of two samples of one class could not be distinguished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from builders.sources.base import Samples
from builders.sources.pytorch import TorchSource
from planwright.golden import Arrays

SEED, EPOCHS, HELD_OUT = 7, 25, 599  # a third of the 1797 images is never trained on
BATCH = 64


class Model(TorchSource):
    """Two convolutions and two linear layers; at least 97% right on the held-out third."""

    tools: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxruntime", "scikit-learn")
    input_names = ("image",)
    output_names = ("scores",)
    metric = "accuracy"

    def samples(self) -> Samples:
        """Calibration from the training part; golden and test from the held-out third."""
        images, truth = _data()
        counts = self.spec.samples
        known, held = images[HELD_OUT:], images[:HELD_OUT]
        return Samples(
            calibration=[{"image": image} for image in known[: counts.calibration]],
            golden=[{"image": image} for image in held[: counts.golden]],
            test=[{"image": image} for image in held],
            truth=truth[:HELD_OUT],
        )

    def build_model(self) -> Any:
        return _train()

    def labels(self) -> Mapping[str, Sequence[str]]:
        return {"scores": [str(digit) for digit in range(10)]}

    def score(self, answers: Arrays, truth: NDArray[Any]) -> float:
        """Share of images whose largest score is the right digit."""
        return float(np.mean(answers["scores"].argmax(axis=1) == truth))


def _data() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    return digits.images[order].astype(np.uint8), digits.target[order].astype(np.int64)


def _network() -> Any:
    import torch
    from torch import nn

    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Flatten(), nn.Dropout(0.3), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
            )  # fmt: skip

        def forward(self, image: Any) -> Any:
            # cast first: TensorRT takes uint8 only as a network input that is cast at once
            scaled = image.to(torch.float32).unsqueeze(1) / 8.0 - 1.0
            return self.layers(scaled)

    return Net()


def _train() -> Any:
    import torch

    torch.manual_seed(SEED)
    images, truth = (torch.from_numpy(array[HELD_OUT:]) for array in _data())
    network = _network()
    steps = EPOCHS * -(-len(images) // BATCH)
    optimizer = torch.optim.Adam(network.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            shift = torch.randint(-1, 2, (2,)).tolist()  # a digit one pixel off is the same digit
            moved = torch.roll(images[batch], shift, (1, 2))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(moved), truth[batch]).backward()
            optimizer.step()
            schedule.step()
    return network
