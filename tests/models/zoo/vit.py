"""torchvision's vit_b_16, with seeded random weights."""

import numpy as np
import torch
import torchvision

from builders.sources.base import Samples
from builders.sources.pytorch import TorchSource


class Model(TorchSource):
    input_names, output_names = ("image",), ("logits",)

    def build_model(self):
        torch.manual_seed(0)
        net = torchvision.models.vit_b_16(weights=None, image_size=64)
        torch.nn.init.normal_(net.heads.head.weight)  # torchvision begins with zeros
        return net

    def samples(self):
        rng = np.random.default_rng(0)
        return Samples([], [{"image": rng.normal(size=(3, 64, 64)).astype(np.float32)} for _ in range(8)])
