"""Which samples are used: text, repeats, spread, limits, random sizes and values; and how scikit-learn's models arrive."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from builders.sources.onnx_given import read
from builders.sources.samples import fingerprint, native, spread
from builders.stages import golden_checks
from builders.targets.ort import OrtEngine
from planwright.errors import StageError
from planwright.golden import Golden, group_by_shape
from planwright.tensors import TensorSpec
from tests._project import Project
from tests.builders._onnx import ENTRY, WORDS, golden_of, report, rows_of, save, save_text, spec, value
from tests.builders._zoo_file import HEAD, NAME, PLAIN, zoo_file


@pytest.mark.parametrize("form", ["U", "S", "O"])
def test_text_is_kept_to_the_last_character(form: str, tmp_path: Path) -> None:
    made = {"U": np.array(WORDS), "S": np.array([w.encode() for w in WORDS]), "O": np.array(WORDS, object)}[form]
    rows = [native({"t": made[i : i + 1]}) for i in range(len(made))]
    Golden(group_by_shape(rows, [{"id": np.zeros(1)} for _ in rows])).save(tmp_path / "g.npz")
    with np.load(tmp_path / "g.npz", allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored.files)
    found = [item.decode() for row in rows_of(Golden.load(tmp_path / "g.npz"), "t") for item in row]
    assert found == (WORDS if form == "O" else [word.rstrip("\0") for word in WORDS]), "numpy's own forms lose the NUL"


def test_golden_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    meta = np.frombuffer(b'{"weights": "real"}', np.uint8)
    arrays: dict[str, Any] = {"input/0/a/b": np.array([b"x", "ä".encode()]), "output/0/y": np.ones(2)}
    np.savez(tmp_path / "g.npz", meta=meta, **arrays)
    (group,) = Golden.load(tmp_path / "g.npz").groups
    assert group.inputs["a/b"].tolist() == [b"x", "ä".encode()]
    assert group.outputs["y"].tolist() == [1, 1]


def test_onnx_runtime_is_given_str(tmp_path: Path) -> None:
    """Of bytes it would make the text of their representation, without an error."""
    save_text(tmp_path / "m.onnx")
    engine = OrtEngine(tmp_path / "m.onnx")
    for form in (np.array(WORDS, object), np.array([word.encode() for word in WORDS], object)):
        found = engine.run({"t": form[:, None]})
        assert found["id"].ravel().tolist() == list(range(len(WORDS)))
        assert found["back"].ravel().tolist() == WORDS


def test_text_samples_build_without_pickle(empty: Callable[[str], Project]) -> None:
    project = empty(ENTRY % ", samples: {file: s.npz, golden: 5}")
    save_text(project.folder / "mine.onnx")
    words = [word.rstrip("\0") for word in WORDS if word != "\0"] + ["not a key"]
    for kind in ("U", "S", "O", "O of bytes"):
        array = np.array([w.encode() for w in words] if "S" in kind or "bytes" in kind else words, kind[0])
        np.savez(project.folder / "s.npz", t=array.reshape(-1, 1))
        done = project.build()
        assert done.code == 0, done.out
        golden = golden_of(project)
        texts = [row[0].decode() for row in rows_of(golden, "t")]
        assert len(set(texts)) == 5
        known = [word.rstrip("\0") for word in WORDS]
        expected = [known.index(text) if text in WORDS else -1 for text in texts]
        assert [int(row[0]) for row in rows_of(golden, "id")] == expected
        assert [row[0].decode() for row in rows_of(golden, "back")] == texts


class Trap:
    """A pickle that would write a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (lambda folder: np.array([Trap(folder / "sprung"), "a"], object), "holds"),
        (lambda folder: np.array([1, "a"], object), "holds a int, not text"),
        (lambda folder: np.array([None, "a"], object), "holds a NoneType, not text"),
        (lambda folder: np.array([b"gr\xf6n", b"rot"]), "element 0 is b'gr\\xf6n'"),
        (lambda folder: np.array(["\ud800", "rot"], object), "surrogates not allowed"),
    ],
    ids=["code", "number", "nothing", "latin", "surrogate"],
)
def test_samples_that_are_no_text_are_refused(
    rows: Callable[[Path], Any], words: str, empty: Callable[[str], Project]
) -> None:
    project = empty(ENTRY % ", samples: {file: s.npz, golden: 2}")
    save_text(project.folder / "mine.onnx")
    np.savez(project.folder / "s.npz", t=rows(project.folder).reshape(-1, 1))
    failed = report(project)
    assert failed["failed_stage"] == "export"
    assert words in failed["errors"][0]["why"]
    assert "config.yaml:3" in failed["errors"][0]["where"]
    assert not (project.folder / "sprung").exists()


def test_random_text_uses_what_the_graph_knows(empty: Callable[[str], Project]) -> None:
    project = empty(ENTRY % "")
    save_text(project.folder / "mine.onnx", ["red fox", "größe", "日本"])
    assert report(project, "--until", "verify")["status"] == "built"
    ids = {int(row[0]) for row in rows_of(golden_of(project), "id")}
    assert ids == {-1, 0, 1, 2}
    assert len({fingerprint({"t": row}) for row in rows_of(golden_of(project), "t")}) == len(golden_of(project))


def test_a_lone_surrogate_is_not_text(tmp_path: Path) -> None:
    text = HEAD + PLAIN.replace('{"x": row}', '{"x": np.array(["a", "\\ud800"], object)}')
    from tests.builders._zoo_file import load

    with zoo_file(text), pytest.raises(StageError) as caught:
        load(tmp_path).samples()
    assert "not valid text" in caught.value.faults[0].what


@pytest.fixture(scope="module")
def sklearn_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text pipeline, an iris classifier, and the same with ZipMap."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.datasets import load_iris
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    folder = tmp_path_factory.mktemp("sklearn")
    texts = ["good film", "bad film", "gut gemacht größe", "schlecht", "nice 日本 film", "awful noise"]
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100)).fit(texts, [1, 0, 1, 0, 1, 0])
    # not every machine has en_US.UTF-8, which StringNormalizer takes otherwise
    options = {id(pipeline): {"zipmap": False}, TfidfVectorizer: {"locale": "C.UTF-8"}}
    text_type = [("text", StringTensorType([None, 1]))]
    text = to_onnx(pipeline, initial_types=text_type, options=options, target_opset=17)
    table, y = load_iris(return_X_y=True)
    classifier = LogisticRegression(max_iter=1000).fit(table, y)
    iris = to_onnx(classifier, table[:1].astype(np.float32), options={"zipmap": False}, target_opset=17)
    onnx.save(text, str(folder / "text.onnx"))
    onnx.save(iris, str(folder / "iris.onnx"))
    onnx.save(to_onnx(classifier, table[:1].astype(np.float32), target_opset=17), str(folder / "zipmap.onnx"))
    rng = np.random.default_rng(0)
    some = [" ".join(rng.choice(" ".join(texts).split(), 4)) for _ in range(60)]
    np.savez(folder / "text.npz", text=np.array([*some, "", "🙂"]).reshape(-1, 1))
    np.savez(folder / "iris.npz", X=table.astype(np.float32))
    np.savez(folder / "expected.npz", text=pipeline.predict_proba(some), iris=classifier.predict_proba(table))
    return folder


def test_models_of_scikit_learn(empty: Callable[[str], Project], sklearn_models: Path) -> None:
    names = ("text", "iris", "zipmap")
    files = {"text": ", samples: text.npz", "iris": ", samples: iris.npz"}
    entries = [f"  {n}: {{source: zoo/onnx, file: {n}.onnx, batch: {{max: 4}}{files.get(n, '')}}}\n" for n in names]
    project = empty("version: 1\nmodels:\n" + "".join(entries))
    for file in sklearn_models.iterdir():
        (project.folder / file.name).write_bytes(file.read_bytes())
    done = project.build("--json", "--until", "verify")
    text, iris, zipmap = json.loads(done.out)["models"]
    assert (text["status"], iris["status"]) == ("built", "built"), done.out
    fault = zipmap["errors"][0]
    assert "options={id(model): {'zipmap': False}}" in fault["fix"]
    assert fault["where"].endswith("zipmap.onnx")
    expected = np.load(sklearn_models / "expected.npz")["iris"]
    inputs = np.load(sklearn_models / "iris.npz")["X"]
    golden = golden_of(project, "iris")
    for row, answer in zip(rows_of(golden, "X"), rows_of(golden, "probabilities"), strict=True):
        index = int(np.flatnonzero((inputs == row).all(1))[0])
        np.testing.assert_allclose(answer, expected[index], atol=1e-4)
    assert {int(label) for label in rows_of(golden, "label")} == {0, 1, 2}, "the file is sorted by class"


def test_a_locale_that_is_missing_is_named(tmp_path: Path) -> None:
    """Without a locale, StringNormalizer uses en_US.UTF-8, which small images lack."""
    text = TensorProto.STRING
    node = helper.make_node("StringNormalizer", ["t"], ["y"], case_change_action="LOWER", locale="xx_XX.UTF-8")
    save(tmp_path / "m.onnx", [node], [value("t", text, 1)], [value("y", text, 1)])
    with pytest.raises(StageError) as caught:
        OrtEngine(tmp_path / "m.onnx")
    assert "xx_XX.UTF-8" in caught.value.faults[0].why
    assert "C.UTF-8" in caught.value.faults[0].fix


def test_golden_samples_are_spread_over_a_file(tmp_path: Path) -> None:
    x = np.arange(100, dtype=np.float32)[:, None]
    np.savez(tmp_path / "s.npz", x=x)
    samples, warnings = read(tmp_path / "s.npz", spec(samples={"golden": 4}), [TensorSpec("x", "FP32", (1,))])
    assert [int(s["x"][0]) for s in samples.golden] == [12, 37, 62, 87]
    assert len(samples.calibration) == 96
    assert warnings == []
    assert spread(3, 8) == [0, 1, 2]


def test_a_repeated_sample_is_used_once(empty: Callable[[str], Project]) -> None:
    project = empty(ENTRY % ", samples: {file: s.npz, golden: 4}")
    save(
        project.folder / "mine.onnx",
        [helper.make_node("Neg", ["x"], ["y"])],
        [value("x", 1, "N", 3)],
        [value("y", 1, "N", 3)],
    )
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    x[7] = x[2]
    np.savez(project.folder / "s.npz", x=x)
    done = project.build("--until", "export")
    assert done.code == 0, done.out
    record = json.loads((project.folder / "build/mine/export/stage.json").read_text())
    assert any("1 of 12 samples" in text for text in record["result"]["warnings"])
    assert not (project.folder / "build/mine/export/calibration.npz").exists(), "FP32 calibrates nothing"


WIDE = PLAIN.replace(
    "nn.Linear(4, 2)", "nn.Linear(4, 16)"
)  # INT8 is judged by direction, which two numbers hardly have
REPEATED = HEAD + WIDE.replace(
    "calibration=rows[8:], golden=rows[:8]", "calibration=[*rows[8:], rows[3], rows[9]], golden=[*rows[:8], rows[0]]"
)


def test_repeated_samples_of_a_zoo_file_are_left_out(empty: Callable[[str], Project]) -> None:
    entry = f"{{source: zoo/{NAME}, batch: {{max: 4}}"
    project = empty(f"version: 1\nmodels:\n  mine: {entry}, precision: int8}}\n  plain: {entry}}}\n")
    with zoo_file(REPEATED):
        done = project.build("--json")
    assert [model["status"] for model in json.loads(done.out)["models"]] == ["built", "built"], done.out
    assert len(golden_of(project)) == 8
    assert len(Golden.load(project.folder / "build/mine/export/calibration.npz")) == 8
    warnings = json.loads((project.repository / "mine/1/build.json").read_text())["warnings"]
    assert "1 golden sample repeated: each is used once" in warnings
    assert any(text.startswith("1 calibration sample left out") for text in warnings)
    assert any(text.startswith("1 calibration sample repeated") for text in warnings)
    plain = json.loads((project.repository / "plain/1/build.json").read_text())["warnings"]
    assert not any("calibration" in text for text in plain)


def test_models_that_differ_in_precision_share_one_export(empty: Callable[[str], Project]) -> None:
    """The second calibrates, and makes its samples from an export that has none."""
    entry = f"{{source: zoo/{NAME}, batch: {{max: 4}}"
    project = empty(f"version: 1\nmodels:\n  plain: {entry}}}\n  mine: {entry}, precision: int8}}\n")
    with zoo_file(HEAD + WIDE):
        assert project.build().code == 0
        record = json.loads((project.folder / "build/mine/export/stage.json").read_text())
        assert record["result"]["shared_with"] == "plain"
        assert not (project.folder / "build/plain/export/calibration.npz").exists()
        made = Golden.load(project.folder / "build/mine/export/calibration.npz")
        known = {fingerprint({"x": row}) for row in rows_of(golden_of(project), "x")}
        assert len(made) == 8
        assert not known & {fingerprint({"x": row}) for row in rows_of(made, "x")}
        done = project.build("--json")
    assert [model["status"] for model in json.loads(done.out)["models"]] == ["kept", "kept"]


def test_int8_without_calibration_samples_is_refused_with_the_line(empty: Callable[[str], Project]) -> None:
    project = empty(ENTRY % ", precision: int8,\n    samples: {calibration: 0}")
    save(
        project.folder / "mine.onnx",
        [helper.make_node("Neg", ["x"], ["y"])],
        [value("x", 1, "N", 3)],
        [value("y", 1, "N", 3)],
    )
    done = project.build()
    assert done.code == 2
    assert "config.yaml:4  models.mine.samples.calibration: 0" in done.out + done.err
    project.edit("precision: int8,", "")
    assert project.build().code == 0, "FP32 needs none"
    np.savez(project.folder / "s.npz", x=np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32))
    project.edit("samples: {calibration: 0}", "precision: int8, samples: s.npz")
    failed = report(project)
    assert failed["failed_stage"] == "export"
    assert "samples.golden" in failed["errors"][0]["fix"]
    assert "config.yaml:4" in failed["errors"][0]["where"]


def test_a_golden_set_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from builders.stage import Job
    from builders.targets import get_target
    from planwright.config.spec import ServerSpec
    from planwright.files import HashCache
    from tests.builders._zoo_file import load

    job = Job(spec(), tmp_path, tmp_path, tmp_path, get_target("onnxruntime"), ServerSpec(), HashCache(tmp_path / "h"))
    with zoo_file(HEAD + PLAIN):
        source = load(tmp_path)
        golden = source.samples().golden
        for limit_bytes, count in ((10, 2), (3 * (4 + 2) * 4, 3), (1 << 20, 8)):
            monkeypatch.setattr(golden_checks, "LIMIT_BYTES", limit_bytes)
            kept, answers, warnings = golden_checks.reference_answers(job, source, golden)
            assert len(answers) == len(kept) == count
            assert [bool(warnings), f"{count} of 8" in " ".join(warnings)] == [count < 8] * 2
    assert [list(sample["x"]) for sample in kept] == [list(sample["x"]) for sample in golden]


def test_a_mask_of_minus_infinity_is_an_answer(empty: Callable[[str], Project]) -> None:
    project = empty(ENTRY % "")
    nodes = [helper.make_node("Less", ["x", "zero"], ["low"]), helper.make_node("Where", ["low", "mask", "x"], ["y"])]
    constants = {"zero": np.float32(0), "mask": np.float32(-np.inf)}
    save(project.folder / "mine.onnx", nodes, [value("x", 1, "N", 6)], [value("y", 1, "N", 6)], constants)
    assert report(project)["status"] == "built"
    assert any(np.isneginf(row).any() for row in rows_of(golden_of(project), "y"))


@pytest.mark.parametrize(("passes", "status"), [(True, "built"), (False, "failed")])
def test_nan_is_an_answer_only_to_nan(empty: Callable[[str], Project], passes: bool, status: str) -> None:
    project = empty(ENTRY % ", samples: {file: s.npz, golden: 6}")
    nodes = [helper.make_node("Neg", ["x"], ["y"]) if passes else helper.make_node("Log", ["x"], ["y"])]
    save(project.folder / "mine.onnx", nodes, [value("x", 1, "N", 6)], [value("y", 1, "N", 6)])
    x = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    x[::2, 3] = np.nan
    np.savez(project.folder / "s.npz", x=x)
    assert report(project)["status"] == status


def test_inputs_of_different_lengths_are_refused(empty: Callable[[str], Project]) -> None:
    project = empty(ENTRY % ", samples: s.npz")
    save(project.folder / "mine.onnx", [helper.make_node("Add", ["a", "b"], ["y"])],
         [value("a", 1, "N", 3), value("b", 1, "N", 3)], [value("y", 1, "N", 3)])  # fmt: skip
    np.savez(project.folder / "s.npz", a=np.zeros((9, 3), np.float32), b=np.zeros((7, 3), ">f4"))
    assert "a has 9, b has 7" in json.dumps(report(project)["errors"])


def test_samples_of_the_other_byte_order_are_the_same_samples(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(9, 3))
    for order in "<>":
        np.savez(tmp_path / f"{'little' if order == '<' else 'big'}.npz", x=x.astype(f"{order}f4"))
    found = [read(tmp_path / f"{name}.npz", spec(), [TensorSpec("x", "FP32", (3,))])[0] for name in ("little", "big")]
    assert [fingerprint(s) for s in found[0].golden] == [fingerprint(s) for s in found[1].golden]
    assert found[1].golden[0]["x"].dtype.isnative
