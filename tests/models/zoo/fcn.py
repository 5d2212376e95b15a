"""torchvision's fcn_resnet50: any height and width in, a score per class and pixel out."""

import numpy as np
import torch
import torchvision

from builders.sources.base import Samples
from builders.sources.pytorch import TorchSource


class Model(TorchSource):
    input_names, output_names = ("image",), ("out",)
    dynamic_axes = {"image": {2: "height", 3: "width"}, "out": {2: "height", 3: "width"}}

    def build_model(self):
        torch.manual_seed(0)
        return torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None)

    def samples(self):
        rng = np.random.default_rng(0)
        sizes = [(64, 64), (64, 96), (96, 72)] * 3
        return Samples([], [{"image": rng.normal(size=(3, *size)).astype(np.float32)} for size in sizes])
