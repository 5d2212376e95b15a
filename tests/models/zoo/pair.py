"""Two inputs of different types, two outputs by name."""

import numpy as np
import torch

from builders.sources.base import Samples
from builders.sources.pytorch import TorchSource


class Model(TorchSource):
    input_names, output_names = ("ids", "weight"), ("mixed", "norm")

    def build_model(self):
        class Net(torch.nn.Embedding):
            def forward(self, ids, weight):
                found = super().forward(ids.long()) * weight[..., None]
                return {"norm": found.norm(dim=(1, 2)), "mixed": found.mean(1)}

        torch.manual_seed(0)
        return Net(50, 8)

    def samples(self):
        rng = np.random.default_rng(0)
        rows = [(rng.integers(0, 50, 7).astype(np.int32), rng.random(7).astype(np.float32)) for _ in range(12)]
        return Samples([], [{"ids": ids, "weight": weight} for ids, weight in rows])
