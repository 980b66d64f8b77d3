from __future__ import annotations

from pathlib import Path

import pytest

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.specs import ConditionSpec, TunerSpec, parse_condition, parse_seeds, parse_tuner


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("depth.png", ConditionSpec(Path("depth.png"))),
        ("canny=edges.png", ConditionSpec(Path("edges.png"), "canny")),
        ("depth.png:0.8", ConditionSpec(Path("depth.png"), scale=0.8)),
        ("depth.png:-.5", ConditionSpec(Path("depth.png"), scale=-0.5)),
        ("my-kind=a/b.png:1e-1:0-0.5", ConditionSpec(Path("a/b.png"), "my-kind", 0.1, 0.0, 0.5)),
        ("a.png:1:.25-1", ConditionSpec(Path("a.png"), None, 1.0, 0.25, 1.0)),
        ("16:9.png", ConditionSpec(Path("16:9.png"))),
        ("C:/pictures/seg.png:2", ConditionSpec(Path("C:/pictures/seg.png"), scale=2.0)),
    ],
)
def test_fields_of_a_condition(text, expected):
    assert parse_condition(text) == expected


@pytest.mark.parametrize("name", ["photo:2", "a=b.png", "photo:1:0-1", "canny=x:3"])
def test_a_file_that_exists_keeps_its_colons_and_equal_signs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    assert parse_condition(name) == ConditionSpec(Path(name))
    assert parse_condition(f"seg={name}:0.5:0-0.5") == ConditionSpec(Path(name), "seg", 0.5, 0.0, 0.5)
    assert parse_tuner(f"{name}:0.5") == TunerSpec(name, 0.5)


@pytest.mark.parametrize("tail", ["abc", "nan", "inf", "", "1:half", "1:0.5-0.5", "1:0.8-0.2", "1:0-1.5", "1:-1-1"])
def test_a_bad_field_is_named(tail, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "depth.png").touch()
    with pytest.raises(SceditError, match="--cond depth.png") as error:
        parse_condition(f"depth.png:{tail}")
    assert tail.split(":")[-1] in error.value.message and error.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("style", TunerSpec("style")),
        ("style:0.5", TunerSpec("style", 0.5)),
        ("runs/canny/tuner.safetensors:-1", TunerSpec("runs/canny/tuner.safetensors", -1.0)),
        ("owner/repository", TunerSpec("owner/repository")),
    ],
)
def test_fields_of_a_tuner(text, expected):
    assert parse_tuner(text) == expected


def test_seeds_are_ten_thousand_at_most():
    assert len(parse_seeds("1-9999,7")) == 10_000
    for text in ("1-10001", "1-5000,1-5001", "0,1-10000"):
        with pytest.raises(SceditError, match="--seed: more than 10000 seeds"):
            parse_seeds(text)
