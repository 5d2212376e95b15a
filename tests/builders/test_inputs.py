"""Every file that a build reads decides whether it is current: weights beside a graph, samples, modules of a zoo file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from builders.graphs import check, external_data
from builders.sources import user_files
from builders.stage import decide, execute
from builders.stages.compile import COMPILE
from builders.stages.export import EXPORT
from builders.stages.graph import GRAPH
from planwright.errors import StageError
from tests._project import ROOT, Project
from tests.builders._zoo_file import HEAD, NAME, PLAIN, zoo_file
from tests.builders.test_zoo import low_precision_job

WIDTH = 6
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTH])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", WIDTH])


def outside(name: str, array: Any, location: str) -> Any:
    """Return a tensor whose data is in another file."""
    tensor = numpy_helper.from_array(np.asarray(array), name)
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    return tensor


def weights(seed: float) -> Any:
    return np.random.default_rng(3).normal(size=WIDTH).astype(np.float32) * np.float32(seed)


def initializer(location: str) -> Any:
    return [helper.make_node("Mul", ["x", "w"], ["y"])], [outside("w", weights(1), location)], {}


def attribute(location: str) -> Any:
    constant = helper.make_node("Constant", [], ["w"], value=outside("", weights(1), location))
    return [constant, helper.make_node("Mul", ["x", "w"], ["y"])], [], {}


def subgraph(location: str) -> Any:
    body = [helper.make_node("Identity", ["w"], ["out"])]
    value = helper.make_tensor_value_info("out", TensorProto.FLOAT, [WIDTH])
    branches = [helper.make_graph(body, name, [], [value], [outside("w", weights(1), location)]) for name in ("a", "b")]
    choice = helper.make_node("If", ["yes"], ["chosen"], then_branch=branches[0], else_branch=branches[1])
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    return [choice, helper.make_node("Mul", ["x", "chosen"], ["y"])], [yes], {}


def function(location: str) -> Any:
    constant = helper.make_node("Constant", [], ["w"], value=outside("", weights(1), location))
    body = [constant, helper.make_node("Mul", ["a", "w"], ["b"])]
    made = helper.make_function("own", "Scale", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    return [helper.make_node("Scale", ["x"], ["y"], domain="own")], [], {"functions": [made]}


def sparse(location: str) -> Any:
    places = numpy_helper.from_array(np.arange(WIDTH), "places")
    tensor = helper.make_sparse_tensor(outside("w", weights(1), location), places, [WIDTH])
    return [helper.make_node("Mul", ["x", "w"], ["y"])], [], {"sparse": [tensor]}


def write(folder: Path, name: str, make: Callable[[str], Any], location: str | None = None) -> Path:
    """Write a graph and the file of weights beside it; return the latter."""
    place = location or f"{name}.weights"
    nodes, initializers, more = make(place)
    graph = helper.make_graph(nodes, "g", [X], [Y], initializers, sparse_initializer=more.get("sparse", []))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=more.get("functions", []))
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    data = folder / Path(place).name
    data.write_bytes(weights(1).tobytes())
    return data


PLACES = (initializer, attribute, subgraph, function)


def planned(project: Project) -> dict[str, str]:
    done = project.build("--plan", "--json")
    return {model["model"]: model["stages"].get("export", "") for model in json.loads(done.out)["models"]}


def heavy_imports(project: Project, *flags: str) -> set[str]:
    """Return the large libraries that a build imports which has nothing to do: half a second is all it may take."""
    code = "import sys; from builders.build_all import main; main(sys.argv[1:]); print(*sys.modules)"
    done = project.run("-c", code, "--config", str(project.config), *flags)
    assert "0 built" in done.out
    return {"torch", "onnx", "onnxruntime"} & set(done.out.split())


def entries(names: list[str], more: str = "") -> str:
    return "version: 1\nmodels:\n" + "".join(f"  {n}: {{source: zoo/onnx, file: {n}.onnx{more}}}\n" for n in names)


def test_weights_in_any_place_of_a_graph_are_watched(empty: Callable[[str], Project]) -> None:
    names = [make.__name__ for make in PLACES]
    project = empty(entries(names))
    data = {make.__name__: write(project.folder, make.__name__, make) for make in PLACES}
    done = project.build("--json")
    assert done.code == 0, done.out
    assert planned(project) == dict.fromkeys(names, "keep: unchanged")
    for name, file in data.items():
        file.write_bytes(weights(5).tobytes())
        assert planned(project)[name] == f"run: file {name}.weights changed"
    report = json.loads(project.build("--json").out)
    assert [model["status"] for model in report["models"]] == ["built"] * len(names)
    for name in names:
        published = onnx.load(str(project.repository / name / "2/model.onnx"))
        arrays = [numpy_helper.to_array(tensor) for tensor in external_data.tensors(published)]
        assert any(np.array_equal(array, weights(5)) for array in arrays), name
    assert heavy_imports(project) == set()


@pytest.mark.parametrize("name", ["Model.ONNX", "net", "net.v2"])
def test_weights_are_watched_whatever_the_graph_is_called(name: str, empty: Callable[[str], Project]) -> None:
    project = empty(f"version: 1\nmodels:\n  m: {{source: zoo/onnx, file: {name}}}\n")
    data = write(project.folder, "m", initializer)
    (project.folder / "m.onnx").rename(project.folder / name)
    assert project.build("--until", "export").code == 0
    data.write_bytes(weights(5).tobytes())
    assert planned(project)["m"] == "run: file m.weights changed"
    data.unlink()
    assert "m.weights is missing" in project.build("--until", "export").out


def test_a_sparse_initializer_is_read_too(tmp_path: Path) -> None:
    """Found and loaded; ONNX Runtime's CPU then has it as a dense constant."""
    write(tmp_path, "s", sparse)
    assert external_data.locations(tmp_path / "s.onnx") == ["s.weights"]
    model = onnx.load(str(tmp_path / "s.onnx"), load_external_data=False)
    external_data.load(model, tmp_path)
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.sparse_initializer[0].values), weights(1))


@pytest.mark.parametrize(
    ("location", "damage", "fact"),
    [
        ("m.weights", lambda file: file.unlink(), "m.weights is missing"),
        ("../m.weights", lambda file: None, "outside the graph's folder"),
        ("/m.weights", lambda file: None, "outside the graph's folder"),
        ("m.weights", lambda file: file.rename(file.with_name("o")) and file.symlink_to("o"), "is a symbolic link"),
    ],
)
@pytest.mark.parametrize("make", [*PLACES, sparse])
def test_weights_that_cannot_be_read_are_named(
    make: Callable[[str], Any], location: str, damage: Callable[[Path], object], fact: str, tmp_path: Path
) -> None:
    damage(write(tmp_path, "m", make, location))
    with pytest.raises(StageError) as caught:
        check.load_checked(tmp_path / "m.onnx")
    fault = caught.value.faults[0]
    assert caught.value.stage == "onnx"
    assert fact in fault.what
    assert f"'{location}'" in fault.why
    assert fault.where == str(tmp_path / "m.onnx")


def test_weights_that_went_missing_stop_the_build(empty: Callable[[str], Project]) -> None:
    project = empty(entries(["m"]))
    data = write(project.folder, "m", subgraph)
    assert project.build().code == 0
    before = project.state()
    data.unlink()
    assert planned(project)["m"] == "run: file m.weights changed"
    done = project.build("--json")
    model = json.loads(done.out)["models"][0]
    assert model["failed_stage"] == "onnx"
    assert "m.weights is missing" in json.dumps(model["errors"])
    assert project.state() == before


def test_large_weights_stay_beside_the_graph_and_are_watched(
    empty: Callable[[str], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above two gigabytes the graph's own bytes do not include its weights."""
    monkeypatch.setattr(check, "INLINE_LIMIT_BYTES", 0)
    project = empty(entries(["m"]))
    big = np.random.default_rng(0).normal(size=(WIDTH, 900)).astype(np.float32)

    def product(location: str) -> Any:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])]
        return nodes, [outside("w", big, location), numpy_helper.from_array(big.T.copy(), "v")], {}

    data = write(project.folder, "m", product)
    data.write_bytes(big.tobytes())
    job = low_precision_job(project)
    for stage in (EXPORT, GRAPH, COMPILE):
        execute(stage, job)
    before = (job.compile_folder / "model.onnx").read_bytes()
    assert [file.name for file in job.compile_folder.glob("*.data")] == ["model.onnx.data"]
    data.write_bytes((big * 2).tobytes())
    execute(EXPORT, job)
    assert decide(GRAPH, job).why == "file model.onnx.data changed"
    execute(GRAPH, job)
    assert decide(COMPILE, job).why == "file model.onnx.data changed"
    execute(COMPILE, job)
    assert (job.compile_folder / "model.onnx").read_bytes() == before, "only the data differs"
    x = np.ones((1, WIDTH), np.float32)
    np.testing.assert_allclose(job.target.load(job.compile_folder).run({"x": x})["y"], x @ (big * 2) @ big.T, rtol=1e-4)


def test_what_a_zoo_file_imports_and_reads_is_watched(empty: Callable[[str], Project]) -> None:
    entry = f"{{source: zoo/{NAME}, options: {{table: table.txt}}}}"
    project = empty(f"version: 1\nmodels:\n  mine: {entry}\n")
    (project.folder / "table.txt").write_text("3")
    helper_file, deeper = ROOT / f"builders/zoo/{NAME}_helper.py", ROOT / f"builders/zoo/{NAME}_deeper.py"
    helper_file.write_text(f"from .{NAME}_deeper import SEED\n")
    deeper.write_text("SEED = 4\n")
    text = (
        HEAD + f"from builders.zoo.{NAME}_helper import SEED\n" + PLAIN.replace("manual_seed(0)", "manual_seed(SEED)")
    )
    text = text.replace("class Model(TorchSource):", 'class Model(TorchSource):\n    options = {"table": ""}')
    try:
        with zoo_file(text):
            assert project.build("--until", "export").code == 0
            assert planned(project)["mine"] == "keep: unchanged"
            assert heavy_imports(project, "--until", "export") == set()
            (project.folder / "table.txt").write_text("4")
            assert planned(project)["mine"] == "run: file table.txt changed"
            (project.folder / "table.txt").write_text("3")
            deeper.write_text("SEED = 5\n")
            assert planned(project)["mine"] == f"run: file builders/zoo/{NAME}_deeper.py changed"
    finally:
        helper_file.unlink()
        deeper.unlink()


OWN = """
import importlib, json, os, sys
from pathlib import Path
import numpy as np
from builders.source import Later, Samples
from builders.torch_source import TorchSource
from parts import *
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "elsewhere"))
hidden = importlib.import_module("hid" + "den")
early = importlib.import_module("early")

class Model(TorchSource):
    input_names, output_names = ("x",), ("y",)
    options = {"tables": [], "other": "default.json"}

    def build_model(self):
        import torch
        torch.manual_seed(json.loads((HERE / "seed.json").read_text()))
        layer = torch.nn.Linear(4, 2)
        for name in (*self.settings["tables"], self.settings["other"]):
            layer.weight.data *= json.loads((self.root / name).read_text()) * hidden.SCALE * early.SCALE * part.SCALE
        (self.root / "note.txt").write_text(os.urandom(8).hex())
        (self.root / "note.txt").read_text()
        return layer

    def samples(self):
        rows = [{"x": row} for row in np.load(HERE / "data/rows.npy")]
        return Samples(calibration=Later(self.late), golden=rows)

    def late(self):
        return [{"x": row} for row in np.load(HERE / "data/late.npy", mmap_mode="r")]
"""


@pytest.mark.parametrize("calibrates", [False, True])
def test_every_file_that_a_zoo_file_opens_is_watched(calibrates: bool, empty: Callable[[str], Project]) -> None:
    entry = "version: 1\nmodels:\n  mine: {source: code/mine.py, options: {tables: [a.json]}, precision: fp32}\n"
    project = empty(entry)
    texts = {
        "code/mine.py": OWN, "code/seed.json": "3", "a.json": "1.5", "default.json": "1.25", "code/early.py": "SCALE = 1.0\n",
        "code/parts/__init__.py": '__all__ = ["part"]\n', "code/parts/part.py": "SCALE = 1.0\n", "elsewhere/hidden.py": "SCALE = 1.0\n",
    }  # fmt: skip
    for name, text in texts.items():
        (project.folder / name).parent.mkdir(exist_ok=True)
        (project.folder / name).write_text(text)
    rng = np.random.default_rng(0)
    (project.folder / "code/data").mkdir()
    for name in ("rows", "late"):
        np.save(project.folder / f"code/data/{name}.npy", rng.normal(size=(16, 4)).astype(np.float32))
    for text in [entry, entry.replace("fp32", "int8")][: 1 + calibrates]:  # INT8 makes its samples after the export
        project.config.write_text(text)
        done = project.build("--until", "graph")
        assert done.code == 0, done.out
        assert planned(project)["mine"] == "keep: unchanged"
    read = [*texts, "code/data/rows.npy", *(["code/data/late.npy"] if calibrates else [])]
    for name in read:
        file = project.folder / name
        before = file.read_bytes()
        file.write_bytes(before + (b" " if file.suffix == ".json" else b"\n#"))
        assert planned(project)["mine"].startswith("run: file "), name
        file.write_bytes(before)
    assert planned(project)["mine"] == "keep: unchanged"
    (project.folder / "code/data/rows.npy").unlink()
    assert planned(project)["mine"] == "run: file code/data/rows.npy changed"


def test_imports_are_followed_through_packages(tmp_path: Path) -> None:
    files = {
        "zoo/model.py": "import mine.net as n, json\nfrom shared import layers\nfrom . import other\n",
        "zoo/other.py": "def f():\n    import late\n",
        "mine/__init__.py": "from .blocks import Block\n", "mine/net.py": "", "mine/blocks.py": "", "mine/unused.py": "",
        "shared/layers.py": "from ..nowhere import x\n", "late.py": "import zoo.model\n", "unused.py": "", "json.py.txt": "",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = user_files.imported(tmp_path / "zoo/model.py", [tmp_path], lambda path: True)
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "late.py", "mine/__init__.py", "mine/blocks.py", "mine/net.py", "shared/layers.py", "zoo/other.py",
    ]  # fmt: skip
