"""What needs a library that is not installed says which extra brings it; for every extra there is."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import accelerate.tracking
import pytest
import torch
from PIL import Image

from scedit_cli import conditions
from scedit_cli.data import formats
from scedit_cli.data.frames import check_frames
from scedit_cli.data.images import open_image
from scedit_cli.data.uris import open_place
from scedit_cli.generation import web_ui
from scedit_cli.generation.config import BaseConfig
from scedit_cli.inference.sampler import sample
from scedit_cli.jobs.generate import generate
from scedit_cli.models.base import load_base
from scedit_cli.recipe import Recipe, TrackingSection, TrainSection
from scedit_cli.training.optimizers import make_optimizer
from scedit_cli.training.trackers import check_trackers
from scedit_cli.utils.errors import SceditError
from tests import by_recipe, tiny
from tests.preparing import open_source

EXTRAS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]


def by_optimizer(name: str):
    return lambda folder: make_optimizer(
        [torch.nn.Parameter(torch.ones(1))], TrainSection(optimizer=name), torch.device("cpu")
    )


def tracked(name: str):
    return lambda folder: check_trackers(TrackingSection(to=[name]))


def a_saved_dataset(folder: Path) -> None:
    (folder / "dataset_info.json").write_text("{}")
    open_source(folder)


def a_table(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "metadata.parquet").write_bytes(b"PAR1")
    list(open_source(folder).entries)


def a_heic_picture(folder: Path) -> None:
    formats.heif_formats.cache_clear()
    (folder / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    try:
        open_image(folder / "a.heic")
    finally:
        formats.heif_formats.cache_clear()


def a_video(folder: Path) -> None:
    (folder / "a.mp4").touch()
    check_frames(folder / "a.mp4", 2, "controls[0].image")


def quantized(folder: Path) -> None:
    recipe = {"tuner": {"kind": "sc"}, "base": {"model": "scenes", "quantize": "int8"}}
    by_recipe.open_base(Recipe.from_dict(recipe))


def an_exported_unet(folder: Path) -> None:
    (folder / "scedit.json").write_text('{"format": "scedit-unet/1", "file": "unet.onnx", "tuners": [], "dtype": "fp32"}')
    (folder / "unet.onnx").touch()
    generate(base=BaseConfig(unet=folder), steps=1)


def weighted(folder: Path) -> None:
    sample(load_base(tiny.pipeline_folder("sd15")), ["a"], seeds=[1], steps=1, weighted=True)


def by_the_sampler_that_draws_noise(folder: Path) -> None:
    sample(load_base(tiny.pipeline_folder("sd15")), ["a"], seeds=[1], steps=1, scheduler="DPM++ SDE")


CASES = [
    ("datasets", "datasets", a_saved_dataset),
    ("datasets", "pyarrow", a_table),
    ("heic", "pi_heif", a_heic_picture),
    ("pose", "onnxruntime", lambda folder: conditions.annotate("pose", Image.new("RGB", (8, 8)), weights=folder)),
    ("onnx", "onnxruntime", an_exported_unet),
    ("prompts", "compel", weighted),
    ("ui", "gradio", lambda folder: web_ui.page(None, None, (), folder, None)),
    ("video", "imageio_ffmpeg", a_video),
    ("8bit", "bitsandbytes", by_optimizer("adamw-8bit")),
    ("prodigy", "prodigyopt", by_optimizer("prodigy")),
    ("schedule-free", "schedulefree", by_optimizer("schedule-free")),
    ("sde", "torchsde", by_the_sampler_that_draws_noise),
    ("stream", "aiohttp", lambda folder: open_place("http://127.0.0.1/shard.tar")),
    ("quantize", "torchao", quantized),
    ("tensorboard", "tensorboard", tracked("tensorboard")),
    ("wandb", "wandb", tracked("wandb")),
]


@pytest.mark.parametrize(("extra", "library", "work"), CASES, ids=[case[1] for case in CASES])
def test_a_library_that_is_missing_is_told_with_its_extra(extra, library, work, tmp_path, monkeypatch):
    for module in {library, *(name for name in sys.modules if name.startswith(f"{library}."))}:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])
    # What fsspec has loaded before it does not load again.
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "http", raising=False)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    with pytest.raises(SceditError, match=f"needs {library}, which is not installed") as refused:
        work(tmp_path)
    assert refused.value.hint.startswith(f"python -m pip install 'scedit-cli[{extra}]'")


def test_every_extra_is_told_of():
    assert {extra for extra, *_ in CASES} == set(EXTRAS) - {"test"}
