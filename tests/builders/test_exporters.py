"""PyTorch models as people write them: torchvision, attention, detection; what the exporters print, and how they fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import error_log
from builders.sources import torchvision_shim
from builders.targets.ort import OrtEngine
from planwright.errors import StageError
from tests._project import Project
from tests.builders._zoo_file import HEAD, NAME, load, marked, zoo_file

Array = np.ndarray[Any, Any]
BEST = 100  # detections; the scores of later ones are so close that rounding may swap them
DETECTOR = (
    HEAD
    + """
import torchvision


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.detector = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
        for layer in self.detector.head.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=2 / layer.weight[0].numel() ** 0.5)
        for layer in self.detector.backbone.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None
        with torch.no_grad():  # statistics of the norms: without them, every place scores alike
            self.detector.backbone.train()(torch.rand(8, 3, 320, 320))

    def forward(self, image):
        found = self.detector([image])[0]
        return found["boxes"], found["labels"], found["scores"]


class Model(TorchSource):
    input_names = ("image",)
    output_names = ("boxes", "labels", "scores")

    def build_model(self):
        torch.manual_seed(5)
        return Net()

    def samples(self):
        rng = np.random.default_rng(0)
        images = [{"image": rng.random((3, 10, 10), np.float32).repeat(32, 1).repeat(32, 2)} for _ in range(4)]
        return Samples(calibration=images[2:], golden=images[:2])
"""
)
ATTENTION = (
    HEAD
    + """
class Model(TorchSource):
    input_names = ("x",)
    output_names = ("y",)

    def build_model(self):
        torch.manual_seed(0)
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)

    def samples(self):
        rows = [{"x": row} for row in np.random.default_rng(0).normal(size=(12, 5, 16)).astype(np.float32)]
        return Samples(calibration=rows[6:], golden=rows[:6])
"""
)
FFT = ATTENTION.replace("class Model", '''class Net(nn.Module):
    def forward(self, x):
        assert x.shape[1] == 5  # the tracer warns about it
        print("printed while it was traced")
        return torch.fft.rfft(x).abs()  # HERE


class Model''').replace("nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)", "Net()")  # fmt: skip


def iou(box: Array, others: Array) -> Array:
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    both = np.clip(width, 0, None) * np.clip(height, 0, None)
    areas = [(b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (box, others)]
    found: Array = both / (areas[0] + areas[1] - both)
    return found


def plain_nms(boxes: Array, scores: Array, threshold: float) -> list[int]:
    """The textbook: take the best, drop what overlaps it, repeat."""
    left = sorted(range(len(scores)), key=lambda i: -scores[i])
    kept = []
    while left:
        best, left = left[0], left[1:]
        kept.append(best)
        left = [i for i in left if not iou(boxes[best], boxes[i : i + 1])[0] > threshold]
    return kept


@pytest.fixture(scope="module")
def torchvision() -> Any:
    torchvision_shim.install()
    import torchvision

    return torchvision


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_nms_keeps_what_the_textbook_keeps(torchvision: Any, threshold: float) -> None:
    import torch

    rng = np.random.default_rng(3)
    corners = rng.integers(0, 20, (120, 2)).astype(np.float32)  # integers: equal overlaps and equal boxes do occur
    boxes = np.concatenate([corners, corners + rng.integers(1, 9, (120, 2))], 1).astype(np.float32)
    scores = rng.permutation(120).astype(np.float32)
    found = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold).tolist()
    assert found == plain_nms(boxes, scores, threshold)
    assert torchvision.ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
def test_operators_answer_like_onnx_runtimes(torchvision: Any, tmp_path: Path, ratio: int, aligned: bool) -> None:
    """The eager kernels against the operators that their export names, which are another implementation."""
    import torch

    class Net(torch.nn.Module):  # type: ignore[misc]
        def forward(self, features: Any, boxes: Any, scores: Any) -> Any:
            kept = boxes[torchvision.ops.nms(boxes, scores, 0.4)]
            return torchvision.ops.roi_align(features, [kept], (3, 5), 0.5, ratio, aligned), kept

    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(40, 2, generator=generator) * 30 - 4  # some boxes reach beyond the picture
    boxes = torch.cat([corners, corners + 1 + torch.rand(40, 2, generator=generator) * 12], 1)
    features, scores = torch.randn(1, 3, 14, 17, generator=generator), torch.rand(40, generator=generator)
    path = tmp_path / "m.onnx"
    names = {"input_names": ["features", "boxes", "scores"], "output_names": ["crops", "kept"]}
    with error_log.captured(None):
        torch.onnx.export(Net(), (features, boxes, scores), str(path), dynamo=False, opset_version=17, **names)
    crops, kept = Net()(features, boxes, scores)
    assert 5 < len(kept) < 40
    feeds = {"features": features.numpy(), "boxes": boxes.numpy(), "scores": scores.numpy()}
    served = OrtEngine(path).run(feeds)
    np.testing.assert_array_equal(served["kept"], kept.numpy())
    np.testing.assert_allclose(served["crops"], crops.numpy(), atol=1e-5)


def test_a_detector_of_torchvision_is_exported(tmp_path: Path) -> None:
    with zoo_file(DETECTOR):
        source = load(tmp_path, batch="none")
        sample = source.samples().golden[0]
        expected = source.reference(sample)
        source.write_onnx(tmp_path / "m.onnx")
    served = OrtEngine(tmp_path / "m.onnx").run(sample)
    assert len(set(expected["labels"][:BEST].tolist())) > 5
    np.testing.assert_allclose(served["boxes"][:BEST], expected["boxes"][:BEST], atol=0.05)  # pixels
    np.testing.assert_array_equal(served["labels"][:BEST], expected["labels"][:BEST])


def test_a_missing_operator_is_refused_by_torchvision_itself(torchvision: Any) -> None:
    import torch

    with pytest.raises(RuntimeError, match="custom C\\+\\+ ops"):
        torchvision.ops.ps_roi_pool(torch.zeros(1, 4, 4, 4), torch.zeros(1, 5), 2)


def test_torch_is_imported_only_with_torchvision() -> None:
    import subprocess
    import sys

    code = "import sys; from builders.sources.torchvision_shim import install; install(); import importlib.util as u; "
    code += "u.find_spec('torchvision'); assert 'torch' not in sys.modules; import transformers, torchvision; "
    code += "from transformers import BertModel; assert torchvision.ops.boxes._assert_has_ops() is None"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_attention_is_built_by_the_default_exporter(empty: Callable[[str], Project]) -> None:
    project = empty(f"version: 1\nmodels:\n  mine: {{source: zoo/{NAME}, batch: {{max: 4}}}}\n")
    with zoo_file(ATTENTION):
        done = project.build()
    assert done.code == 0, done.out
    assert "Warning" not in done.out + done.err
    assert not (project.folder / "build/mine/error.log").exists()


def test_a_failed_export_names_line_reason_and_the_other_exporter(empty: Callable[[str], Project]) -> None:
    entry = f"{{source: zoo/{NAME}, batch: {{max: 4}}"
    project = empty(
        f"version: 1\nmodels:\n  mine: {entry}}}\n  other: {entry}, export: {{exporter: dynamo, opset: 18}}}}\n"
    )
    with zoo_file(FFT):
        done = project.build("--json", "--until", "export")
    failed, built = json.loads(done.out)["models"]
    assert done.code == 1
    assert (failed["failed_stage"], built["status"]) == ("export", "built"), "the exporter that is proposed works"
    fault = failed["errors"][0]
    assert fault["where"] == f"builders/zoo/{NAME}.py:{marked(FFT)}"
    assert "aten::fft_rfft" in fault["why"]
    assert "export: {exporter: dynamo, opset: 18}" in fault["fix"]
    assert "config.yaml:3" in fault["fix"]
    log = project.folder / "build/mine/error.log"
    assert str(log) in fault["fix"]
    text = log.read_text()
    assert "printed while it was traced" in text
    assert "printed" in done.err, "by the reference, which is no exporter"
    assert "TracerWarning" in text
    assert "Traceback" in text
    assert "TracerWarning" not in done.err


def test_dynamo_names_the_line_that_it_cannot_follow(tmp_path: Path) -> None:
    text = ATTENTION.replace("class Model", '''class Net(nn.Module):
    def forward(self, x):
        return x[:, : int(x.sum() > 0)]  # HERE


class Model''').replace("nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)", "Net()")  # fmt: skip
    with zoo_file(text), pytest.raises(StageError) as caught:
        load(tmp_path, export={"exporter": "dynamo", "opset": 18}).write_onnx(tmp_path / "m.onnx")
    fault = caught.value.faults[0]
    assert caught.value.stage == "export"
    assert fault.where.endswith(f"{NAME}.py:{marked(text)}")
    assert "exporter: torchscript, opset: 17" in fault.fix
