"""Bases from strangers, as folders and as single files: each is loaded or refused in a sentence, and runs nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from scedit_cli.models import single_file
from scedit_cli.models.base import load_base
from tests import tiny
from tests.faults import tensor_files
from tests.faults.box import faults, folder_in_memory, try_each
from tests.faults.mutations import changed, damaged
from tests.original_layout import save_configs, save_original

SECONDS = 20.0
CONFIGS, WEIGHTS, FILES = 120, 60, 60


def described(place: Path) -> str:
    base = load_base(place)
    return f"{base.family}, {base.skips.channels}, {base.defaults}, {base.multiple}, {base.prediction_type}"


def test_folders(tried) -> None:
    whole, rng = tiny.pipeline_folder("sd15"), random.Random(5)
    configs = sorted(path.relative_to(whole) for path in whole.rglob("*.json") if "tokenizer" not in path.parts)
    weights = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    cases: list[tuple[Path, bytes]] = []
    for name in rng.choices(configs, k=CONFIGS):
        text = (whole / name).read_text()
        cases.append((name, json.dumps(changed(json.loads(text), rng)).encode()))
        cases.append((name, damaged(text.encode(), rng)))
    cases += [(name, damaged((whole / name).read_bytes(), rng)) for name in rng.choices(weights, k=WEIGHTS)]
    with folder_in_memory() as memory:

        def work(case: tuple[Path, bytes]) -> str:
            place = memory / str(os.getpid())
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(whole, place)
            (place / case[0]).write_bytes(case[1])
            return described(place)

        outcomes = try_each(cases, work, SECONDS)
    tried("folders of bases with damage", len(outcomes))
    assert faults(outcomes, SECONDS) == ""
    assert {each.what for each in outcomes} == {"fine", "refused"}


@pytest.fixture
def single(tmp_path, monkeypatch) -> bytes:
    """A base in the original layout, with configurations of its own sizes."""
    pipeline = tiny.pipeline("sd15")
    save_original(pipeline, "sd15", tmp_path / "base.safetensors")
    save_configs(pipeline, "sd15", tmp_path / "configs")
    monkeypatch.setattr(single_file, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(single_file, "tokenizer", lambda pad="": tiny.tokenizer())
    return (tmp_path / "base.safetensors").read_bytes()


def test_single_files(single, tried) -> None:
    rng = random.Random(6)
    cases = [tensor_files.damage(single, rng) for _ in range(FILES)] + [tensor_files.Case("whole", single)]
    with folder_in_memory() as memory:

        def work(case: tensor_files.Case) -> str:
            file = memory / f"{os.getpid()}.safetensors"
            file.write_bytes(case.data)
            return described(file)

        outcomes = try_each(cases, work, SECONDS)
    tried("single files of bases with damage", len(outcomes))
    assert outcomes[-1].what == "fine", outcomes[-1]
    assert faults(outcomes, SECONDS) == ""
    assert {each.what for each in outcomes} == {"fine", "refused"}
