"""config.pbtxt is read as protobuf reads it, however it is written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from planwright import config_pbtxt
from planwright.integrity import CONFIG, versions_in

LARGEST = (1 << 63) - 1
PRINTED = """\
# Generated; versions: [9]
name: "m"
version_policy {
  specific {
    versions: [2, 1]
  }
}
parameters {
  key: "planwright_slo_p99_ms"
  value {
    string_value: "20"
  }
}
"""
# the same, in other forms that protobuf's text format allows
SAME = {
    "printed": PRINTED,
    "repeated": PRINTED.replace("versions: [2, 1]", "versions: 2 versions: 1"),
    "short": "version_policy{specific{versions:[1,2]}}parameters:{key:'planwright_slo_p99_ms';value:{string_value:'20'}}",
    "value first": PRINTED.replace('  key: "planwright_slo_p99_ms"\n', "").rstrip("}\n") + '  }\n  key: "planwright_slo_p99_ms"\n}',
    "commented": PRINTED.replace("versions: [2, 1]", "versions: [ # 7\n 2, 0x1 ]").replace('"20"', '"2" # 5\n "0"'),
    "angles": PRINTED.replace("{", "<").replace("}", ">"),
    "newer field": PRINTED + "field_of_the_next_server { versions: [5] }\n",
}  # fmt: skip


def model(folder: Path, text: str, versions: tuple[int, ...] = (1, 2, 3)) -> Path:
    for version in versions:
        (folder / str(version)).mkdir()
    (folder / CONFIG).write_text(text)
    return folder


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_any_form_of_the_text_says_the_same(tmp_path: Path, text: str) -> None:
    folder = model(tmp_path, text)
    assert config_pbtxt.served(folder) == [1, 2]
    assert config_pbtxt.slo_p99_ms(config_pbtxt.read(folder)) == 20


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [3]),
        ("version_policy { latest { num_versions: 2 } }", [2, 3]),
        ("version_policy { all { } }", [1, 2, 3]),
        ("version_policy { specific { versions: 7 } }", [7]),
        ("version_policy { specific { versions: [1 } }", [1, 2, 3]),
    ],
    ids=["default", "latest", "all", "specific", "unreadable"],
)
def test_each_policy_serves_what_triton_serves(tmp_path: Path, policy: str, served: list[int]) -> None:
    assert config_pbtxt.served(model(tmp_path, f'name: "m" {policy}')) == served


def test_numbers_of_any_size_are_held(tmp_path: Path) -> None:
    policy = f"version_policy {{ specific {{ versions: [{LARGEST}, {LARGEST - 1}] }} }}"
    folder = model(tmp_path, policy, (LARGEST, LARGEST - 1, LARGEST + 1))
    assert config_pbtxt.served(folder) == versions_in(folder) == [LARGEST - 1, LARGEST]
    for text, number in (("1000000", 1e6), ("1e+06", 1e6), ("0.00005", 5e-5), ("5e-05", 5e-5)):
        config = config_pbtxt.parse(PRINTED.replace('"20"', f'"{text}"'))
        assert config_pbtxt.slo_p99_ms(config) == number


def test_what_is_not_a_config_is_refused_with_its_line() -> None:
    with pytest.raises(ValueError, match="2:1"):
        config_pbtxt.parse("name: 'm'\nnot_a_field: 1")
    with pytest.raises(ValueError, match="2:1"):
        config_pbtxt.parse("name: 'm'\n}", allow_unknown=True)


def test_damaged_text_is_read_or_refused_and_nothing_else() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        text = list(PRINTED)
        for _ in range(rng.randrange(1, 4)):
            text[rng.randrange(len(text))] = chr(rng.randrange(0x250))
        try:
            config_pbtxt.parse("".join(text), allow_unknown=True)
        except ValueError:
            pass
    with pytest.raises(ValueError, match="."):
        config_pbtxt.parse("a {" * 5000, allow_unknown=True)


def test_a_folder_without_a_readable_config(tmp_path: Path) -> None:
    assert config_pbtxt.read(tmp_path) is None
    assert config_pbtxt.served(tmp_path / "absent") == []
    (tmp_path / CONFIG).mkdir()
    assert config_pbtxt.read(tmp_path) is None
