"""An LSTM over sequences of any length."""

import numpy as np
import torch

from builders.sources.base import Samples
from builders.sources.pytorch import TorchSource


class Model(TorchSource):
    input_names, output_names = ("frames",), ("states", "last")
    dynamic_axes = {"frames": {1: "time"}, "states": {1: "time"}}

    def build_model(self):
        class Net(torch.nn.LSTM):
            def forward(self, frames):
                states, _ = super().forward(frames)
                return states, states[:, -1]

        torch.manual_seed(0)
        return Net(6, 12, batch_first=True)

    def samples(self):
        rng = np.random.default_rng(0)
        return Samples([], [{"frames": rng.normal(size=(5 + i % 3, 6)).astype(np.float32)} for i in range(12)])
