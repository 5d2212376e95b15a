"""torchvision's ssdlite320 with its own post-processing: as many boxes as it finds, so one picture a request."""

import numpy as np
import torch
import torchvision

from builders.sources.base import Samples
from builders.sources.pytorch import TorchSource


class Model(TorchSource):
    input_names, output_names = ("image",), ("boxes", "scores", "labels")
    dynamic_axes = {name: {0: "found"} for name in output_names}

    def build_model(self):
        class Net(torch.nn.Sequential):
            def forward(self, image):
                return self[0]([image])[0]

        torch.manual_seed(0)
        net = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
        for norm in (part for part in net.modules() if isinstance(part, torch.nn.BatchNorm2d)):
            norm.momentum = None  # plain averages, as a long training leaves them
        with torch.no_grad():
            net.backbone.train()(torch.randn(4, 3, 320, 320))
            for level in net.head.classification_head.module_list:
                level[-1].weight.mul_(20)  # scores that are told apart
        return Net(net)

    def samples(self):
        rng = np.random.default_rng(0)
        return Samples([], [{"image": rng.random((3, 160, 160)).astype(np.float32)} for _ in range(3)])
