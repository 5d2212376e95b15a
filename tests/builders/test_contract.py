"""Mistakes in a zoo file: each is reported with the user's own file and line, never with a stack trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from builders.stages.golden_checks import check_declared
from builders.targets.ort import OrtEngine
from planwright.errors import PlanwrightError
from planwright.golden import Golden, group_by_shape
from tests._project import Project
from tests.builders._zoo_file import HEAD, NAME, PLAIN, load, marked, zoo_file
from tests.builders.test_zoo import save


def changed(*edits: str) -> str:
    """Return the plain zoo file with edits (old, new, old, new, ...)."""
    text = HEAD + PLAIN
    for old, new in zip(edits[::2], edits[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    return text


CLASS = "class Model(TorchSource):"
SAMPLES = "        return Samples(calibration=rows[8:], golden=rows[:8])"
BUILD = "        return nn.Linear(4, 2)"
NAMED = '    output_names = ("y",)'
ROWS = '{"x": row}'
NET = """class Net(nn.Module):
    def forward(self, x):
        return %s


class Model(TorchSource):"""


def net(answer: str, *edits: str) -> str:
    """Return a zoo file whose module answers with an expression of x."""
    return changed(CLASS, NET % answer, BUILD, "        return Net()", *edits)


def in_samples(*edits: str) -> str:
    """Return a zoo file whose samples() is to blame."""
    return changed("    def samples(self):", "    def samples(self):  # HERE", *edits)


def odd_row(expression: str) -> str:
    """Return a zoo file whose fourth sample differs from the others."""
    return in_samples(SAMPLES, f"        rows[3]['x'] = {expression}\n" + SAMPLES)


CASES = {
    "a module that is not installed": (
        changed("import torch\n", "import torch\nimport no_such_package_zz  # HERE\n"),
        "no_such_package_zz",
    ),
    "a syntax error": (changed(BUILD, "        return nn.Linear(4, 2  # HERE"), "SyntaxError"),
    "an exception at import": (changed(CLASS, "table = {}['x']  # HERE\n\n\n" + CLASS), "KeyError"),
    "another class name": (changed(CLASS, "class Net(TorchSource):  # HERE"), "rename Net to Model"),
    "not a source": (changed(CLASS, "class Model(nn.Module):  # HERE"), "TorchSource"),
    "no samples function": (
        changed("class Model(TorchSource):", "class Model(TorchSource):  # HERE", "def samples(", "def sample("),
        "samples()",
    ),
    "a list instead of Samples": (in_samples(SAMPLES, "        return rows"), "a list, not Samples"),
    "no return": (in_samples(SAMPLES, "        pass"), "nothing"),
    "no golden samples": (in_samples("golden=rows[:8]", "golden=[]"), "golden holds 0 samples"),
    "a generator": (in_samples("golden=rows[:8]", "golden=iter(rows)"), "golden is a list_iterator"),
    "another input": (in_samples(ROWS, '{"image": row}'), "it lacks 'x'; it has 'image'"),
    "a bare array": (in_samples(ROWS, "row"), "ndarray"),
    "a tensor": (in_samples(ROWS, '{"x": torch.from_numpy(row)}'), "x.numpy()"),
    "mixed types": (odd_row("rows[3]['x'].astype(np.float64)"), "golden[3]: input 'x' is float64"),
    "mixed ranks": (odd_row("rows[3]['x'][None]"), "2 axes [1, 4]"),
    "truth of another length": (
        in_samples("golden=rows[:8])", "golden=rows[:8], test=rows, truth=np.zeros(3))"),
        "test holds 16 samples, truth 3",
    ),
    "an exception in samples": (
        changed(SAMPLES, "        return Samples(rows[8:], rows[:8] / 2)  # HERE"),
        "TypeError",
    ),
    "no module": (
        changed("    def build_model(self):", "    def build_model(self):  # HERE", BUILD, "        nn.Linear(4, 2)"),
        "returns nothing",
    ),
    "not a module": (
        changed("    def build_model(self):", "    def build_model(self):  # HERE", BUILD, "        return {}"),
        "a dict, not a torch.nn.Module",
    ),
    "an exception in build_model": (
        changed(BUILD, "        return nn.Linear(4)  # HERE"),
        "build_model() raised TypeError",
    ),
    "one string as names": (changed('    input_names = ("x",)', '    input_names = "x"  # HERE'), "('x',)"),
    "too many inputs": (
        changed('    input_names = ("x",)', '    input_names = ("x", "mask")  # HERE', ROWS, '{"x": row, "mask": row}'),
        "forward() of Linear does not take 2 inputs",
    ),
    "inputs in another order": (
        net(
            "x",
            "def forward(self, x)",
            "def forward(self, a, x)",
            '("x",)',
            '("x", "a")  # HERE',
            ROWS,
            '{"x": row, "a": row}',
        ),
        "'a'",
    ),
    "an exception in forward": (
        changed(CLASS, NET.replace("%s", "x @ torch.zeros(3, 3)  # HERE"), BUILD, "        return Net()"),
        "given x float32[1, 4], raised RuntimeError",
    ),
    "samples of another type": (in_samples(".astype(np.float32)", ""), "input 'x' is float64, the weights are float32"),
    "too few names": (net("(x, x)", NAMED, f"{NAMED}  # HERE"), "the model returns 2 outputs, output_names has 1"),
    "too many names": (
        net("x", NAMED, '    output_names = ("y", "z")  # HERE'),
        "the model returns 1 output, output_names has 2",
    ),
    "a key that is missing": (net('{"out": x, "aux": x}', NAMED, f"{NAMED}  # HERE"), "it returns out, aux"),
    "nested outputs": (
        net("(x, (x, x))", NAMED, '    output_names = ("y", "state")  # HERE'),
        "output 'state' is a tuple of 2",
    ),
    "an output that is None": (
        net("(x, None)", NAMED, '    output_names = ("y", "z")  # HERE'),
        "output 'z' is nothing (None)",
    ),
    "bfloat16": (net("x.bfloat16()", NAMED, f"{NAMED}  # HERE"), ".float()"),
    "an axis that varies": (
        net(
            "x.sum(-1, keepdim=True)",
            SAMPLES,
            "        rows[1]['x'] = rows[1]['x'][:3]\n" + SAMPLES,
            CLASS,
            f"{CLASS}  # HERE",
        ),
        "dynamic_axes = {'x': {1: 'length'}}",
    ),
    "samples of whole numbers": (
        in_samples(".astype(np.float32)", ".astype(np.int64)"),
        "return the types and shapes",
    ),
    "samples of another width": (
        in_samples("size=(16, 4)", "size=(16, 5)"),
        "given x float32[1, 5], raised RuntimeError",
    ),
    "bfloat16 weights": (
        changed("    def build_model(self):", "    def build_model(self):  # HERE", BUILD, BUILD + ".bfloat16()"),
        "end build_model() with .float()",
    ),
    "one name for two": (changed(NAMED, '    output_names = ("x",)  # HERE'), "'x' is an input and an output"),
    "torch's list of axes": (changed(NAMED, NAMED + "\n    dynamic_axes = {'x': [1]}  # HERE"), "{'x': {1: 'length'}}"),
    "an axis that is not there": (
        changed(NAMED, NAMED + "\n    dynamic_axes = {'x': {5: 'length'}}  # HERE"),
        "axis 5 of 'x', which has 2 axes",
    ),
    "an unknown name in dynamic_axes": (
        changed(NAMED, NAMED + "\n    dynamic_axes = {'ids': {1: 'length'}}  # HERE"),
        "'ids'",
    ),
}


def export(folder: Path) -> None:
    """Do what the export stage does."""
    source = load(folder)
    source.reference({name: np.stack([array]) for name, array in source.samples().golden[0].items()})
    source.write_onnx(folder / "m.onnx")


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_names_the_users_line(name: str, tmp_path: Path) -> None:
    text, fact = CASES[name]
    with zoo_file(text), pytest.raises(PlanwrightError) as caught:
        export(tmp_path)
    fault = caught.value.faults[0]
    assert fact in fault.render()
    assert fault.fix
    place = f"builders/zoo/{NAME}.py"
    assert fault.where.endswith(f"{place}:{marked(text)}"), fault.where


@pytest.mark.parametrize("answer", [
    '{"aux": x + 1, "y": x * 2}',
    'collections.namedtuple("Both", "aux y")(x + 1, x * 2)',
    "Answer(aux=x + 1, y=x * 2, more=None)",
    "transformers.utils.ModelOutput(aux=x + 1, y=x * 2)",
])  # fmt: skip
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_answers_with_keys_are_taken_by_key(answer: str, exporter: str, tmp_path: Path) -> None:
    head = "import collections\nimport dataclasses\nimport typing\nimport transformers\n\n\n@dataclasses.dataclass\n"
    head += "class Answer:\n    aux: typing.Any\n    y: typing.Any\n    more: typing.Any\n\n\n"
    text = net(answer, NAMED, '    output_names = ("y", "aux")', CLASS, f"{CLASS}\n    tools = ('torch',)")
    with zoo_file(text.replace("class Net", head + "class Net", 1)):
        source = load(tmp_path, export={"exporter": exporter, "opset": 18})
        x = np.stack([sample["x"] for sample in source.samples().golden[:3]])
        found = source.reference({"x": x})
        source.write_onnx(tmp_path / "m.onnx")
    assert list(found) == ["y", "aux"]
    np.testing.assert_array_equal(found["y"], x * 2)
    np.testing.assert_array_equal(found["aux"], x + 1)
    served = OrtEngine(tmp_path / "m.onnx").run({"x": x})
    np.testing.assert_array_equal(served["y"], x * 2)
    np.testing.assert_array_equal(served["aux"], x + 1)


def test_the_stack_trace_is_kept_for_the_user(tmp_path: Path) -> None:
    text, _ = CASES["an exception in forward"]
    with zoo_file(text), pytest.raises(PlanwrightError) as caught:
        load(tmp_path).reference({"x": np.zeros((1, 4), np.float32)})
    assert str(tmp_path / "error.log") in caught.value.faults[0].fix
    log = (tmp_path / "error.log").read_text()
    assert f"{NAME}.py" in log
    assert "Traceback" in log


VARIANTS = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        return {
            "one batch": lambda: x.reshape(1, 4),
            "fixed by the export": lambda: x.reshape(-1, int(x.shape[1])) * 2,
            "another type": lambda: x.double() * 2,
        }[self.kind]()


class Model(TorchSource):
    input_names = ("x",)
    output_names = ("y",)
    options = {"kind": ""}
    dynamic_axes = {"x": {1: "length"}}

    def build_model(self):
        net = Net(self.settings["kind"])
        net.register_parameter("scale", nn.Parameter(torch.ones(1)))
        return net

    def samples(self):
        lengths = [5, 7] if "export" in self.settings["kind"] else [4, 4]
        rng = np.random.default_rng(0)
        rows = [{"x": rng.normal(size=lengths[i % 2]).astype(np.float32)} for i in range(16)]
        if self.settings["kind"] == "another type":
            rows = [{"x": row["x"].astype(np.float64)} for row in rows]
        return Samples(calibration=rows[8:], golden=rows[:8])
"""
)


def test_mistakes_that_only_answers_show(empty: Callable[[str], Project]) -> None:
    kinds = ("one batch", "fixed by the export", "another type")
    models = [f"  m{i}: {{source: zoo/{NAME}, options: {{kind: {kind}}}}}\n" for i, kind in enumerate(kinds)]
    project = empty("version: 1\nmodels:\n" + "".join(models))
    with zoo_file(VARIANTS):
        done = project.build("--json", "--until", "export")
    one, fixed, other = json.loads(done.out)["models"]
    assert (one["failed_stage"], fixed["failed_stage"], other["status"]) == ("torch", "onnx", "built")
    assert "batch 1 works and batch 2 fails" in one["errors"][0]["why"]
    assert "5" in fixed["errors"][0]["why"]
    assert "7" in fixed["errors"][0]["why"]
    assert "dynamic_axes" in fixed["errors"][0]["fix"]
    assert "input 'x' is float64, the weights are float32" in done.err


def test_a_broken_zoo_file_stops_only_its_own_model(empty: Callable[[str], Project]) -> None:
    other = "  other: {source: zoo/onnx, file: other.onnx}\n"
    project = empty(f"version: 1\nmodels:\n  mine: {{source: zoo/{NAME}}}\n{other}")
    save(project.folder / "other.onnx")
    with zoo_file(HEAD + PLAIN):
        assert project.build("--until", "export").code == 0
    text, fact = CASES["an exception at import"]
    for flag in ("--plan", "--force"):
        with zoo_file(text):
            done = project.build("--json", "--until", "export", flag)
        broken, untouched = json.loads(done.out)["models"]
        assert done.code == 1
        assert (broken["status"], untouched["status"]) == ("failed", {"--plan": "kept", "--force": "built"}[flag])
        assert broken["errors"][0]["where"] == f"builders/zoo/{NAME}.py:{marked(text)}"
        assert fact in json.dumps(broken["errors"])


def test_a_file_that_declares_other_shapes_than_it_answers(tmp_path: Path) -> None:
    save(tmp_path / "m.onnx")  # declares 4 columns
    rows = [{"x": np.full(size, size, np.float32)} for size in (4, 6)]
    golden = Golden(group_by_shape(rows, [{"y": row["x"]} for row in rows]))
    with zoo_file(HEAD + PLAIN), pytest.raises(PlanwrightError) as caught:
        check_declared(load(tmp_path), onnx.load(tmp_path / "m.onnx"), golden)
    assert [fault.what for fault in caught.value.faults] == [
        f"the ONNX file fixes axis 1 of {kind} at 4" for kind in ("input 'x'", "output 'y'")
    ]
    assert "4, 6" in caught.value.faults[0].why


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_module_is_a_model(tmp_path: Path) -> None:
    with zoo_file(changed(BUILD, "        return torch.jit.script(nn.Sequential(nn.Linear(4, 2), nn.Tanh()))")):
        source = load(tmp_path)
        x = np.stack([sample["x"] for sample in source.samples().golden])
        expected = source.reference({"x": x})["y"]
        source.write_onnx(tmp_path / "m.onnx")
    np.testing.assert_allclose(OrtEngine(tmp_path / "m.onnx").run({"x": x})["y"], expected, atol=1e-5)
    assert expected.std() > 0.1


def test_float64_is_an_ordinary_type(tmp_path: Path) -> None:
    with zoo_file(changed(".astype(np.float32)", "", BUILD, "        return nn.Linear(4, 2).double()")):
        source = load(tmp_path)
        found = source.reference({"x": np.stack([source.samples().golden[0]["x"]])})
    assert found["y"].dtype == np.float64
