"""Tuner files from strangers: each is loaded or refused in a sentence, within 2 s and 1 GiB, and runs nothing."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from scedit_cli.core.blend import merge
from scedit_cli.core.foreign.writing import FORMATS
from scedit_cli.core.source import read
from scedit_cli.core.tuners import CSCTuner, SCTuner
from scedit_cli.core.weights import save_tuner
from scedit_cli.inference.controls import check_base, load_placed, rescheduled_for
from scedit_cli.jobs.merge_inputs import check_together
from scedit_cli.models.base import Base, load_base
from scedit_cli.utils.specs import TunerSpec
from tests import tiny
from tests.faults import tensor_files
from tests.faults.box import Outcome, faults, folder_in_memory, try_each

SECONDS = 2.0
DAMAGED = 10_000
KINDS = ("sc", "csc", "bundle", "scepter", "scepter-csc", "ms-swift", "scedit-pytorch")


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(tiny.pipeline_folder("sd15"))


@pytest.fixture(scope="module")
def good(base, tmp_path_factory) -> dict[str, bytes]:
    """A whole file of each of KINDS."""
    folder = tmp_path_factory.mktemp("good")
    facts = {
        "base": base.name, "base_fingerprint": base.fingerprint, "prediction_type": "epsilon", "steps": "3",
        "zero_terminal_snr": "false", "recipe": '[tuner]\nkind = "sc"\n',
    }  # fmt: skip
    canny = CSCTuner.for_unet(base.unet, condition="canny", hint_channels=8, hint_width=0.3)
    style = SCTuner.for_unet(base.unet, down_ratio=0.5)
    for name, tuner in {"sc": style, "csc": canny, "bundle": merge([(canny, 0.5), (style, 0.25)])}.items():
        save_tuner(tuner, folder / f"{name}.safetensors", facts)
    for format in FORMATS:
        save_tuner(style, folder / f"{format}.safetensors", format=format)
    save_tuner(canny, folder / "scepter-csc.safetensors", format="scepter")
    return {file.stem: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def load(base):
    """Loads bytes as a tuner file, as far as `generate --tuner` and `merge` go before they compute."""

    with folder_in_memory() as folder:

        def work(case: tensor_files.Case) -> str:
            file = folder / f"{os.getpid()}.safetensors"
            file.write_bytes(case.data)
            return loaded(base, file)

        yield work


def loaded(base: Base, file: Path) -> str:
    read(file)
    placed = load_placed(TunerSpec(str(file)))
    check_together(placed)
    for each in placed:
        check_base(each, base)
        assert all(weight.isfinite().all() for weight in each.tuner.parameters())
        assert all(type(value) is str for value in each.tuner.metadata.values())
    rescheduled_for(placed, base)
    return ", ".join(str(each.tuner) for each in placed)


def test_the_known_attacks(good, load, tried) -> None:
    outcomes: list[Outcome] = []
    for name in ("bundle", "scepter"):
        cases = [tensor_files.Case("whole", good[name]), *tensor_files.attacks(good[name])]
        outcomes += try_each(cases, load, SECONDS)
        assert outcomes[-len(cases)].what == "fine"
    tried("known attacks on safetensors files", len(outcomes))
    assert faults(outcomes, SECONDS) == ""


def test_cuts_at_every_field(good, load, tried) -> None:
    cases = [case for name in KINDS for case in tensor_files.cuts(good[name])]
    outcomes = try_each(cases, load, SECONDS)
    tried("safetensors files cut at a field", len(outcomes))
    assert faults(outcomes, SECONDS) == ""
    assert {each.what for each in outcomes} == {"refused"}


def test_seeded_damage(good, load, tried) -> None:
    rng = random.Random(7)
    cases = [tensor_files.damage(good[name], rng) for name in rng.choices(KINDS, k=DAMAGED)]
    outcomes = try_each(cases, load, SECONDS)
    tried("safetensors files with seeded damage", len(outcomes))
    assert faults(outcomes, SECONDS) == ""
    assert {each.what for each in outcomes} == {"fine", "refused"}
