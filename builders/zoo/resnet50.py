"""resnet50: torchvision's ResNet-50, uint8 pixels in, normalisation inside the graph.

In      ``image`` UINT8 [224, 224, 3], RGB as from a camera.
Out     ``logits`` FP32 [1000]; with ``options: {top_k: true}`` instead ``scores`` FP32 [5] and ``classes`` INT32 [5].

Pretrained weights come from torchvision's own loader. ``--random-weights resnet50`` builds without them: seeded, with BatchNorm
statistics from a pass over calibration samples and a head that is centred and scaled to unit spread, because plain random
weights give nearly the same answer to every picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from builders.sources.base import Later, Sample, Samples
from builders.sources.pytorch import TorchSource
from planwright.errors import Fault, SpecError, StageError

SIZE, TOP, SEED = 224, 5, 3
STATISTICS = 64  # samples that set them
BRANCH_SCALE = 0.1  # of random residual branches: at 1 noise drowns the picture, and INT8 answers had a cosine of 0.26
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision transforms/_presets.py, ImageClassification


class Model(TorchSource):
    """ResNet-50 with preprocessing and, optionally, top-5 in the graph."""

    tools: ClassVar[tuple[str, ...]] = ("torch", "torchvision", "onnx", "onnxruntime", "scikit-learn")
    options: ClassVar[Mapping[str, Any]] = {"top_k": False}
    random_weights_allowed = True
    input_names = ("image",)

    def _check_options(self) -> None:
        super()._check_options()
        if self.random_weights and self.settings["top_k"]:
            why = "random weights rank classes by noise, so their answers are judged on logits"
            where = self.spec.where("options", "top_k")
            raise SpecError(Fault("top_k needs real weights", where, why, "remove top_k"))

    @property
    def output_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("scores", "classes") if self.settings["top_k"] else ("logits",)

    def samples(self) -> Samples:
        """Crops of scikit-learn's two photographs, at many places and sizes."""
        counts = self.spec.samples
        rest = Later(lambda: _crops(counts.golden + counts.calibration)[counts.golden :])
        return Samples(rest, _crops(counts.golden))

    def labels(self) -> Mapping[str, Sequence[str]]:
        if self.settings["top_k"]:
            return {}
        import torchvision

        return {"logits": torchvision.models.ResNet50_Weights.IMAGENET1K_V2.meta["categories"]}

    def build_model(self) -> Any:
        """Weights from torchvision's loader, or seeded random ones with ``--random-weights``."""
        import torchvision

        body = _random(torchvision, self._statistics()) if self.random_weights else self._pretrained(torchvision)
        return _wrap(body.eval(), self.settings["top_k"])

    def _statistics(self) -> list[Sample]:
        """The first calibration samples, for the BatchNorm statistics of random weights."""
        golden = self.spec.samples.golden
        return _crops(golden + STATISTICS)[golden:]

    def _pretrained(self, torchvision: Any) -> Any:
        weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
        try:
            return torchvision.models.resnet50(weights=weights)
        except OSError as error:  # urllib's errors are OSErrors
            import torch

            cache = f"{torch.hub.get_dir()}/checkpoints/{weights.url.rpartition('/')[2]}"
            fix = f"put the file there, or pass --random-weights {self.spec.name}"
            fault = Fault("the weights of resnet50 are not available", self.spec.where("source"),
                          f"torchvision's loader could not download them ({error}); it looks for {cache}", fix,
                          self.spec.build_command())  # fmt: skip
            raise StageError("torch", fault) from None


def _crops(count: int) -> list[Sample]:
    """Cut `count` distinct squares from the photographs and resize them to 224."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    rng = np.random.default_rng(SEED)
    crops: list[Sample] = []
    for index in range(count):
        photo = photos[index % len(photos)]
        side = int(rng.integers(48, min(photo.size)))
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in photo.size)
        square = photo.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        turned = square.rotate(90 * int(rng.integers(4)))
        crops.append({"image": np.array(turned, dtype=np.uint8)})
    return crops


def _normalise(image: Any) -> Any:
    """Turn UINT8 [batch, 224, 224, 3] into FP32 [batch, 3, 224, 224]; cast first, as TensorRT requires for UINT8."""
    import torch

    scaled = image.to(torch.float32).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values, device=image.device).view(1, 3, 1, 1) * 255 for values in (MEAN, STD))
    return (scaled - mean) / std


def _random(torchvision: Any, samples: list[Sample]) -> Any:
    import torch

    torch.manual_seed(SEED)
    body = torchvision.models.resnet50(weights=None)
    pixels = torch.from_numpy(np.stack([sample["image"] for sample in samples]))
    for module in body.modules():
        if isinstance(module, torchvision.models.resnet.Bottleneck):
            module.bn3.weight.data.fill_(BRANCH_SCALE)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a plain average over the one pass
    with torch.no_grad():
        body.train()(_normalise(pixels))
        logits = body.eval()(_normalise(pixels))
        body.fc.bias -= logits.mean(0)
        body.fc.weight /= logits.std()
        body.fc.bias /= logits.std()
    return body


def _wrap(body: Any, top_k: bool) -> Any:
    import torch
    from torch import nn

    class Served(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, image: Any) -> Any:
            logits = self.body(_normalise(image))
            if not top_k:
                return logits
            scores, classes = torch.softmax(logits, 1).topk(TOP)
            return scores, classes.to(torch.int32)

    return Served()
