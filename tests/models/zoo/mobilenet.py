"""torchvision's mobilenet_v3_large, with seeded random weights."""

import numpy as np
import torch
import torchvision

from builders.sources.base import Samples
from builders.sources.pytorch import TorchSource


class Model(TorchSource):
    input_names, output_names = ("image",), ("logits",)

    def build_model(self):
        torch.manual_seed(0)
        net = torchvision.models.mobilenet_v3_large(weights=None)
        for norm in (part for part in net.modules() if isinstance(part, torch.nn.BatchNorm2d)):
            norm.momentum = None  # plain averages, as a long training leaves them
        with torch.no_grad():
            net.train()(torch.randn(16, 3, 64, 64))
        return net

    def samples(self):
        rng = np.random.default_rng(0)
        return Samples([], [{"image": rng.normal(size=(3, 64, 64)).astype(np.float32)} for _ in range(8)])
