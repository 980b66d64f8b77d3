"""What the tests of `generate` share: a tiny base, tuner files for it, and pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scedit_cli.conditions import annotate
from scedit_cli.core.blend import merge
from scedit_cli.core.tuners import CSCTuner, SCTuner
from scedit_cli.core.weights import save_tuner
from scedit_cli.models.base import load_base
from tests import tiny
from tests.jobs.drawn import draw


@pytest.fixture(scope="module")
def base():
    return load_base(tiny.pipeline_folder("sd15"))


@pytest.fixture(scope="module")
def files(base, tmp_path_factory):
    """Tuner files for the base, and pictures."""
    folder = tmp_path_factory.mktemp("files")
    about = {"base": base.name, "base_fingerprint": base.fingerprint}
    tuners = {
        "canny": CSCTuner.for_unet(base.unet, condition="canny", hint_channels=16),
        "color": CSCTuner.for_unet(base.unet, condition="color", hint_channels=16),
        "style": SCTuner.for_unet(base.unet),
    }
    for seed, (name, tuner) in enumerate(tuners.items()):
        save_tuner(tiny.trained(tuner, seed), folder / f"{name}.safetensors", about)
    save_tuner(merge([(tuners["canny"], 0.5), (tuners["style"], 0.25)]), folder / "both.safetensors", about)
    save_tuner(tuners["canny"], folder / "sibling.safetensors", about | {"base_fingerprint": "0" * 32})
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((16, 16)).resize((64, 64), Image.Resampling.NEAREST)
    photo.save(folder / "photo.png")
    annotate("canny", photo).save(folder / "canny.png")
    annotate("color", photo).save(folder / "color.png")
    photo.resize((72, 64)).save(folder / "seg-72x64.png")
    photo.resize((128, 64)).save(folder / "wide-canny.png")
    (folder / "torn-canny.png").write_bytes((folder / "canny.png").read_bytes()[:60])
    (folder / "notes-canny.png").write_text("no image")
    return folder


@pytest.fixture
def generate(base, files, tmp_path, monkeypatch):
    """The job on the tiny base, in a folder of its own, two steps per picture. `{}` in arguments is the folder of
    `files`."""
    monkeypatch.chdir(tmp_path)

    def run(**options):
        def placed(value):
            if isinstance(value, list | tuple):
                return [placed(each) for each in value]
            return value.replace("{}", str(files)) if isinstance(value, str) else value

        given = {"steps": 2, "out": tmp_path / "out"} | ({} if "from_file" in options else {"base": base.name})
        return draw(**given | {name: placed(value) for name, value in options.items()})

    return run


@pytest.fixture
def masks(tmp_path):
    """Masks of the pictures' size, in L."""
    left = np.zeros((64, 64), np.uint8)
    left[:, :32] = 255
    for name, levels in {"black": left * 0, "white": left * 0 + 255, "left": left, "right": 255 - left}.items():
        Image.fromarray(levels).save(tmp_path / f"{name}.png")
    return tmp_path
