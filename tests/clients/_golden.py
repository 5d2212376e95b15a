"""Tiny published models: ONNX, config.pbtxt, golden.npz and build.json, as the builders publish them.

In      a repository folder.
Out     model folders whose golden answers come from ONNX Runtime in this process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import helper

from planwright.compare import Tolerance
from planwright.files import sha256
from planwright.golden import Arrays, Golden, group_by_shape
from planwright.integrity import OWN_HASH, record_hash, seal
from tests import _models

BATCHING = "dynamic_batching { max_queue_delay_microseconds: 20000 }\n"
RANDOM = np.random.default_rng(7)
WEIGHTS = RANDOM.normal(size=(4, 3)).astype(np.float32)


def floats(*shape: int) -> Any:
    """Return random numbers; one of them without a shape."""
    return np.asarray(RANDOM.normal(size=shape), np.float32)


def publish(repository: Path, name: str, made: Any, config: str, samples: Sequence[Arrays], *, batch: dict[str, Any],
            weights: str = "real", expected: Sequence[Arrays] | None = None, labels: Sequence[str] = ()) -> Path:  # fmt: skip
    """Write a model and its golden samples; `expected` plants other answers than the model's own."""
    folder = _models.publish(repository, name, made, config) / "1"
    answers = expected or [answer(made, sample, alone=batch["kind"] == "none") for sample in samples]
    Golden(group_by_shape(samples, answers), {"weights": weights}).save(folder / "golden.npz")
    tolerances = {output: Tolerance().as_dict() for output in answers[0]}
    build = {
        "model": name,
        "version": 1,
        "target": "onnxruntime",
        "precision": "fp32",
        "weights": weights,
        "batch": batch,
        "tolerances": tolerances,
    }
    if labels:
        (folder / "labels.txt").write_text("\n".join(labels) + "\n")
    record(folder, build)
    return folder


def record(folder: Path, build: dict[str, Any]) -> None:
    """Write build.json as Planwright 0.1.0 did, with the hashes of the files that are there and none of itself."""
    hashes = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != "build.json"}
    (folder / "build.json").write_text(json.dumps({**build, "hashes": hashes}))


def sealed(repository: Path, name: str) -> Path:
    """Publish y = x W as this Planwright does: build.json and config.pbtxt hold a hash of themselves."""
    folder = affine(repository, name)
    build = {**recorded(folder), "trial_load": {"checks": 2}}
    (folder / "build.json").write_text(json.dumps({**build, OWN_HASH: record_hash(build)}))
    config = folder.parent / "config.pbtxt"
    config.write_text(seal(f"# Generated.\n{config.read_text()}version_policy {{ specific {{ versions: [1] }} }}\n"))
    return folder


def recorded(folder: Path) -> dict[str, Any]:
    """Return build.json of a version folder."""
    build: dict[str, Any] = json.loads((folder / "build.json").read_text())
    return build


def answer(made: Any, sample: Arrays, *, alone: bool) -> Arrays:
    """Return what the model says of one sample; a static batch is filled with it."""
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = sample
    if not alone:
        rows = [item.shape[0] for item in session.get_inputs()]
        feeds = {k: np.repeat(v[None], rows[0] if isinstance(rows[0], int) else 1, axis=0) for k, v in sample.items()}
    feeds = {k: _decoded(v) if v.dtype.kind == "O" else v for k, v in feeds.items()}
    names = [item.name for item in session.get_outputs()]
    found = {name: np.asarray(made) for name, made in zip(names, session.run(names, feeds), strict=True)}
    return found if alone else {k: v[0, ...] for k, v in found.items()}


def _decoded(array: Any) -> Any:
    return np.array([item.decode() for item in array.ravel()], dtype=object).reshape(array.shape)


def affine_model(rows: int | str = "n") -> Any:
    """Return y = x W."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return _models.model(
        nodes,
        [_models.value("x", "FP32", [rows, 4])],
        [_models.value("y", "FP32", [rows, 3])],
        [_models.constant("w", WEIGHTS)],
    )


def affine(repository: Path, name: str = "affine", batching: str = "", **how: Any) -> Path:
    """Publish y = x W, batches of up to 8."""
    io = _models.tensors("input", ("x", "FP32", [4])) + _models.tensors("output", ("y", "FP32", [3]))
    samples = [{"x": floats(4)} for _ in range(16)]
    return publish(repository, name, affine_model(), f"max_batch_size: 8\n{io}{_models.instances(1)}{batching or BATCHING}", samples,
                   batch={"kind": "dynamic", "max": 8}, **how)  # fmt: skip


def fixed(repository: Path) -> Path:
    """Publish y = x W as an engine of four rows."""
    io = _models.tensors("input", ("x", "FP32", [4, 4])) + _models.tensors("output", ("y", "FP32", [4, 3]))
    parameter = 'parameters { key: "planwright_fixed_batch" value { string_value: "4" } }\n'
    samples = [{"x": floats(4)} for _ in range(6)]
    return publish(repository, "fixed", affine_model(4), f"max_batch_size: 0\n{io}{_models.instances(1)}{parameter}", samples,
                   batch={"kind": "fixed", "max": 4})  # fmt: skip


def foreign(repository: Path) -> Path:
    """Publish y = x W of two rows, without a batch axis."""
    io = _models.tensors("input", ("x", "FP32", [2, 4])) + _models.tensors("output", ("y", "FP32", [2, 3]))
    samples = [{"x": floats(2, 4)} for _ in range(3)]
    return publish(
        repository,
        "foreign",
        affine_model(2),
        f"max_batch_size: 0\n{io}{_models.instances(1)}",
        samples,
        batch={"kind": "none", "max": 0},
    )


def two(repository: Path) -> Path:
    """Publish s = a + 1, t = b + b, from random weights by its own word."""
    made = _models.model(
        [helper.make_node("Add", ["a", "one"], ["s"]), helper.make_node("Add", ["b", "b"], ["t"])],
        [_models.value("a", "FP32", ["n", 4]), _models.value("b", "INT32", ["n", 2])],
        [_models.value("s", "FP32", ["n", 4]), _models.value("t", "INT32", ["n", 2])],
        [_models.constant("one", np.float32(1))],
    )
    io = _models.tensors("input", ("a", "FP32", [4]), ("b", "INT32", [2])) + _models.tensors(
        "output", ("s", "FP32", [4]), ("t", "INT32", [2])
    )
    samples = [{"a": floats(4), "b": RANDOM.integers(0, 99, 2, dtype=np.int32)} for _ in range(5)]
    return publish(
        repository,
        "two",
        made,
        f"max_batch_size: 4\n{io}{_models.instances(1)}",
        samples,
        batch={"kind": "dynamic", "max": 4},
        weights="random",
    )


def any_length(repository: Path) -> Path:
    """Publish y = x + x of any length; golden samples of two lengths."""
    made = _models.model(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [_models.value("x", "FP32", ["n", "m"])],
        [_models.value("y", "FP32", ["n", "m"])],
    )
    io = _models.tensors("input", ("x", "FP32", [-1])) + _models.tensors("output", ("y", "FP32", [-1]))
    samples = [{"x": floats(length)} for length in (3, 5, 3, 5, 5)]
    return publish(
        repository,
        "any_length",
        made,
        f"max_batch_size: 4\n{io}{_models.instances(1)}{BATCHING}",
        samples,
        batch={"kind": "dynamic", "max": 4},
    )


def text(repository: Path) -> Path:
    """Publish a model that repeats its input."""
    said, heard = _models.value("said", "STRING", ["n", 1]), _models.value("heard", "STRING", ["n", 1])
    made = _models.model([helper.make_node("Identity", ["said"], ["heard"])], [said], [heard])
    io = _models.tensors("input", ("said", "STRING", [1])) + _models.tensors("output", ("heard", "STRING", [1]))
    samples = [{"said": np.array([word.encode()], dtype=object)} for word in ("one", "zwölf", "a longer sentence", "x")]
    return publish(
        repository,
        "text",
        made,
        f"max_batch_size: 4\n{io}{_models.instances(1)}",
        samples,
        batch={"kind": "dynamic", "max": 4},
    )


def classes(repository: Path) -> Path:
    """Publish class scores of an 8 x 8 image: how bright each row is, so row 3 bright means class "three"."""
    made = _models.model(
        [helper.make_node("Cast", ["image"], ["f"], to=1), helper.make_node("ReduceMean", ["f"], ["scores"], axes=[2], keepdims=0)],
        [_models.value("image", "UINT8", ["n", 8, 8])],
        [_models.value("scores", "FP32", ["n", 8])],
    )  # fmt: skip
    io = _models.tensors("input", ("image", "UINT8", [8, 8])) + _models.tensors("output", ("scores", "FP32", [8]))
    samples = [{"image": RANDOM.integers(0, 255, (8, 8), dtype=np.uint8)} for _ in range(8)]
    labels = ["zero", "one", "two", "three", "four", "five", "six", "seven"]
    return publish(
        repository,
        "classes",
        made,
        f"max_batch_size: 4\n{io}{_models.instances(1)}",
        samples,
        batch={"kind": "dynamic", "max": 4},
        labels=labels,
    )


def per_sample(repository: Path) -> Path:
    """Publish a model of one number, one text and some numbers per sample: d = 2 k, s = k + sum(v), and the text again."""
    made = _models.model(
        [
            helper.make_node("Mul", ["k", "two"], ["d"]),
            helper.make_node("ReduceSum", ["v", "axis"], ["sum"], keepdims=0),
            helper.make_node("Add", ["sum", "k"], ["s"]),
            helper.make_node("Identity", ["w"], ["again"]),
        ],
        [
            _models.value("k", "FP32", ["n"]),
            _models.value("v", "FP32", ["n", "m"]),
            _models.value("w", "STRING", ["n"]),
        ],
        [_models.value("d", "FP32", ["n"]), _models.value("s", "FP32", ["n"]), _models.value("again", "STRING", ["n"])],
        [_models.constant("two", np.float32(2)), _models.constant("axis", np.array([1]))],
    )
    io = _models.reshaped("input", ("k", "FP32", [1], []), ("w", "STRING", [1], []))
    io += _models.tensors("input", ("v", "FP32", [-1]))
    io += _models.reshaped("output", ("d", "FP32", [1], []), ("s", "FP32", [1], []), ("again", "STRING", [1], []))
    samples = [
        {"k": floats(), "v": floats(length), "w": np.array(word.encode(), object)}
        for length, word in ((3, "one"), (5, "zwölf"), (3, ""), (3, "三"))
    ]
    config = f"max_batch_size: 4\n{io}{_models.instances(1)}{BATCHING}"
    return publish(repository, "per_sample", made, config, samples, batch={"kind": "dynamic", "max": 4})


def scalars(repository: Path) -> Path:
    """Publish a model without a batch axis that multiplies numbers by a scalar: p = s v, t = sum(p), and a text again."""
    made = _models.model(
        [
            helper.make_node("Mul", ["s", "v"], ["p"]),
            helper.make_node("ReduceSum", ["p"], ["t"], keepdims=0),
            helper.make_node("Identity", ["w"], ["again"]),
        ],
        [_models.value("s", "FP32", []), _models.value("v", "FP32", ["m"]), _models.value("w", "STRING", [])],
        [_models.value("t", "FP32", []), _models.value("p", "FP32", ["m"]), _models.value("again", "STRING", [])],
    )
    io = _models.tensors("input", ("s", "FP32", [1]), ("v", "FP32", [-1]), ("w", "STRING", [1]))
    io += _models.tensors("output", ("t", "FP32", [1]), ("p", "FP32", [-1]), ("again", "STRING", [1]))
    names = 'parameters { key: "planwright_scalars" value { string_value: \'["s", "w", "t", "again"]\' } }\n'
    samples = [{"s": floats(), "v": floats(3), "w": np.array(word.encode(), object)} for word in ("one", "zwölf", "")]
    config = f"max_batch_size: 0\n{io}{_models.instances(1)}{names}"
    return publish(repository, "scalars", made, config, samples, batch={"kind": "none", "max": 0})


def fixed_numbers(repository: Path) -> Path:
    """Publish d = 2 k of one number per sample, as an engine of four rows."""
    made = _models.model(
        [helper.make_node("Add", ["k", "k"], ["d"])],
        [_models.value("k", "FP32", [4])],
        [_models.value("d", "FP32", [4])],
    )
    io = _models.tensors("input", ("k", "FP32", [4])) + _models.tensors("output", ("d", "FP32", [4]))
    parameter = 'parameters { key: "planwright_fixed_batch" value { string_value: "4" } }\n'
    config = f"max_batch_size: 0\n{io}{_models.instances(1)}{parameter}"
    return publish(
        repository,
        "fixed_numbers",
        made,
        config,
        [{"k": floats()} for _ in range(6)],
        batch={"kind": "fixed", "max": 4},
    )


def shapes(repository: Path) -> Path:
    """Publish a model whose config.pbtxt shows other shapes than its own, with and without open dims."""
    made = _models.model(
        [helper.make_node("Identity", ["a"], ["a_out"]), helper.make_node("Identity", ["b"], ["b_out"])],
        [_models.value("a", "FP32", ["n", "m"]), _models.value("b", "FP32", ["n", 2, 3])],
        [_models.value("a_out", "FP32", ["n", "m"]), _models.value("b_out", "FP32", ["n", 2, 3])],
    )
    io = _models.reshaped("input", ("a", "FP32", [-1, 1], [-1]), ("b", "FP32", [6], [2, 3]))
    io += _models.reshaped("output", ("a_out", "FP32", [1, -1], [-1]), ("b_out", "FP32", [3, 2], [2, 3]))
    samples = [{"a": floats(length), "b": floats(2, 3)} for length in (5, 7, 5)]
    config = f"max_batch_size: 4\n{io}{_models.instances(1)}{BATCHING}"
    return publish(repository, "shapes", made, config, samples, batch={"kind": "dynamic", "max": 4})


def odd_numbers(repository: Path) -> Path:
    """Publish y = log(x) with inputs that make -inf, inf and NaN of it, and an input that is NaN itself."""
    made = _models.model(
        [helper.make_node("Log", ["x"], ["y"])],
        [_models.value("x", "FP32", ["n", 4])],
        [_models.value("y", "FP32", ["n", 4])],
    )
    io = _models.tensors("input", ("x", "FP32", [4])) + _models.tensors("output", ("y", "FP32", [4]))
    odd = (np.nan, 0.0, np.inf, -1.0)
    samples = [{"x": np.array([1 + i, 2 * i + 1, odd[i % 4], 3], np.float32)} for i in range(8)]
    config = f"max_batch_size: 4\n{io}{_models.instances(1)}{BATCHING}"
    return publish(repository, "odd_numbers", made, config, samples, batch={"kind": "dynamic", "max": 4})


def sequence(repository: Path) -> Path:
    """Publish y = x W as a model whose requests belong to sequences."""
    io = _models.tensors("input", ("x", "FP32", [4])) + _models.tensors("output", ("y", "FP32", [3]))
    config = f"max_batch_size: 4\n{io}{_models.instances(1)}sequence_batching {{ oldest {{ max_candidate_sequences: 8 }} }}\n"
    samples = [{"x": floats(4)} for _ in range(8)]
    return publish(repository, "sequence", affine_model(), config, samples, batch={"kind": "dynamic", "max": 4})


def reverser(repository: Path, name: str = "reverser") -> Path:
    """Publish a model that mixes up the answers of one execution; right as long as each runs alone."""
    end = np.array([np.iinfo(np.int64).min])
    made = _models.model(
        [helper.make_node("Slice", ["x", "last", "end", "axis", "step"], ["y"])],
        [_models.value("x", "FP32", ["n", 4])],
        [_models.value("y", "FP32", ["n", 4])],
        [
            _models.constant(key, np.array(number).reshape(1))
            for key, number in (("last", -1), ("end", end), ("axis", 0), ("step", -1))
        ],
    )
    io = _models.tensors("input", ("x", "FP32", [4])) + _models.tensors("output", ("y", "FP32", [4]))
    samples = [{"x": floats(4)} for _ in range(16)]
    return publish(repository, name, made, f"max_batch_size: 8\n{io}{_models.instances(1)}{BATCHING}", samples,
                   batch={"kind": "dynamic", "max": 8})  # fmt: skip


def all_models(repository: Path) -> Path:
    """Publish every well-behaved model; returns the repository."""
    for make in (
        affine,
        fixed,
        foreign,
        two,
        any_length,
        text,
        classes,
        per_sample,
        scalars,
        fixed_numbers,
        shapes,
        sequence,
        odd_numbers,
    ):
        make(repository)
    return repository
