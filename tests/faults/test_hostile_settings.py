"""Pictures from strangers that `generate --from` is given: each is made again or refused in a sentence."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from scedit_cli.core.tuners import CSCTuner
from scedit_cli.core.weights import save_tuner
from scedit_cli.generation.provenance import encoded, settings_in
from scedit_cli.generation.runner import ImageRunner
from scedit_cli.models.base import Base, load_base
from tests import tiny
from tests.faults.box import faults, folder_in_memory, try_each
from tests.faults.mutations import changed, damaged
from tests.jobs.drawn import draw

SECONDS = 5.0
CHANGED, DAMAGED = 900, 300


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(tiny.pipeline_folder("sd15"))


@pytest.fixture(scope="module")
def picture(base, tmp_path_factory) -> Path:
    """One that was made with all that a picture can be made with."""
    folder = tmp_path_factory.mktemp("made")
    tuner = CSCTuner.for_unet(base.unet, "canny", hint_channels=8, hint_width=0.3)
    save_tuner(tuner, folder / "canny.safetensors")
    for name in ("canny", "mask", "photo"):
        Image.effect_noise((64, 64), 99).convert("RGB").save(folder / f"{name}.png")
    made = draw(
        prompts=("a cube",), negative="a cone", seed=3, steps=2, tuners=(str(folder / "canny.safetensors"),),
        conds=(f"canny={folder / 'canny.png'}:0.5:0-0.9",), masks=(f"canny={folder / 'mask.png'}",), guidance=2.0,
        image=folder / "photo.png", strength=0.5, guidance_span="0-0.5", scheduler="DDIMScheduler", resize="crop",
        out=folder / "picture.png", loaded=base,
    )  # fmt: skip
    return made.images[0].path


def test_settings_of_others(base, picture, monkeypatch, tried) -> None:
    rng, settings = random.Random(3), settings_in(picture)
    again = [encoded(Image.new("RGB", (64, 64)), ".png", changed(settings, rng)) for _ in range(CHANGED)]
    again += [damaged(picture.read_bytes(), rng) for _ in range(DAMAGED)] + [picture.read_bytes()]
    monkeypatch.setattr(ImageRunner, "draw", lambda run, jobs, reporter: [Image.new("RGB", (64, 64)) for _ in jobs])
    with folder_in_memory() as folder:

        def work(case: int) -> str:
            file, out = (folder / f"{os.getpid()}-{name}.png" for name in ("made", "again"))
            file.write_bytes(again[case])
            with torch.no_grad():
                made = draw(from_file=file, out=out, overwrite=True, loaded=base)
            return json.dumps(made.document())[:100]

        outcomes = try_each(range(len(again)), work, SECONDS)
    tried("images with settings of others", len(outcomes))
    assert faults(outcomes, SECONDS) == ""
    assert {each.what for each in outcomes} == {"fine", "refused"} and outcomes[-1].what == "fine"
