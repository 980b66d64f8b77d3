"""generate --unet draws with an exported U-Net what it draws with the base and the tuners themselves."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from typer.testing import CliRunner

import scedit_cli as scedit
from scedit_cli import CSCTuner, SceditError, SCTuner, save_tuner
from scedit_cli.cli import app
from scedit_cli.generation.config import BaseConfig, Overrides
from tests import tiny
from tests.jobs.merge.conftest import merge

GIVEN = {"prompts": ["a cone"], "steps": 2, "seeds": [1, 2]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base of few operators, tuners for it, a condition image, and the graph of all three."""
    folder = tmp_path_factory.mktemp("unet")
    torch.manual_seed(0)
    unet = tiny.one_block()
    parts = tiny.pipeline("sd15").components | {"unet": unet}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder / "base")
    tuners = [SCTuner.for_unet(unet)]
    tuners += [CSCTuner.for_unet(unet, kind, hint_channels=8) for kind in ("canny", "depth")]
    files = [
        save_tuner(tiny.trained(tuner, seed, 0.4), folder / f"{tuner.condition or 'style'}.safetensors")
        for seed, tuner in enumerate(tuners)
    ]
    levels = (torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(3)) * 255).to(torch.uint8)
    Image.fromarray(levels.numpy()).save(folder / "canny.png")
    named = [f"{file}:{scale}" for file, scale in zip(files, (1.0, 0.7, 1.0), strict=True)]
    merge(list(map(str, named)), out=folder / "graph", format="torch-export", base=str(folder / "base"))
    return folder


def levels(result) -> torch.Tensor:
    return torch.stack([torch.tensor(list(each.image.tobytes())) for each in result.images])


def test_the_images_are_those_of_the_attached_tuners(made):
    """A condition's scale and span act; the depth tuner, whose condition is not given, has no effect."""
    control = scedit.Control("canny", image=made / "canny.png", scale=0.8, end=0.5)
    tuners = [(made / "style.safetensors", 1.0), (made / "canny.safetensors", 0.7)]
    expected = scedit.generate(base=made / "base", tuners=tuners, controls=[control], **GIVEN)
    found = scedit.generate(base=BaseConfig(unet=made / "graph"), controls=[control], **GIVEN)
    assert found.base == str(made / "base")
    assert (levels(found) - levels(expected)).abs().max() <= 1
    bare = scedit.generate(base=made / "base", **GIVEN)
    assert (levels(bare) - levels(expected)).abs().max() > 20
    style = scedit.generate(base=made / "base", tuners=tuners[:1], **GIVEN)
    assert (levels(scedit.generate(base=BaseConfig(unet=made / "graph"), **GIVEN)) - levels(style)).abs().max() <= 1


def test_from_the_command_line_and_again_from_the_image(made, tmp_path):
    words = ["--unet", str(made / "graph"), "--cond", f"canny={made}/canny.png", "--steps", "2", "--prompt", "a cone"]
    answer = CliRunner().invoke(app, ["generate", *words, "--out", str(tmp_path / "a.png"), "--json"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["images"][0]["path"] == str(tmp_path / "a.png")
    again = ["generate", "--from", str(tmp_path / "a.png"), "--out", str(tmp_path / "b.png"), "--quiet"]
    answer = CliRunner().invoke(app, again)
    assert answer.exit_code == 0, answer.output
    assert Image.open(tmp_path / "a.png").tobytes() == Image.open(tmp_path / "b.png").tobytes()


def test_an_image_is_not_made_again_with_another_graph(made, tmp_path):
    shutil.copytree(made / "graph", tmp_path / "graph")
    generate = ["generate", "--out", str(tmp_path / "a.png"), "--json"]
    words = ["--unet", str(tmp_path / "graph"), "--steps", "1", "--prompt", "a cone"]
    assert CliRunner().invoke(app, [*generate, *words]).exit_code == 0
    merge([f"{made}/style.safetensors"], out=tmp_path / "other", format="torch-export", base=str(made / "base"))
    shutil.rmtree(tmp_path / "graph")
    (tmp_path / "other").rename(tmp_path / "graph")
    answer = CliRunner().invoke(app, [*generate, "--from", str(tmp_path / "a.png"), "--overwrite"])
    assert answer.exit_code == 2
    error = json.loads(answer.stdout)["error"]
    assert str(tmp_path / "graph") in error["message"] and "is not the file that it was made with" in error["message"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": {"unet": "nowhere"}}, "exported U-Net nowhere: no such folder"),
        ({"tuners": ["style.safetensors"]}, "has its tuners in it, and takes no others"),
        ({"base": {"unet": "graph", "compile": True}}, "base.compile has no effect on an exported U-Net"),
        ({"base": {"unet": "graph", "dtype": "fp16"}}, "base.dtype is fp16, and the U-Net was exported in fp32"),
        ({"sampler": scedit.SamplerConfig(reuse=2)}, "sampler.reuse has no effect on an exported U-Net"),
        ({"overrides": Overrides(masks={"style": "canny.png"})}, "takes no masks .*leave `overrides.masks` out"),
        (
            {"sampler": scedit.SamplerConfig(batch_size=32), "seeds": range(32)},
            "sampler.batch_size: a step has 64 rows, and the exported U-Net takes at most 63",
        ),
        (
            {"sampler": scedit.SamplerConfig(batch_size=64), "seeds": range(64), "guidance": 1.0},
            "a step has 64 rows",
        ),
        ({"controls": ["pose"]}, "pose"),
        ({"base": {"unet": "graph", "model": "scenes-like"}}, "scenes-like"),
    ],
    ids=str,
)
def test_what_a_graph_does_not_take_is_a_sentence(made, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(made)
    given = {"base": BaseConfig(**options.get("base", {"unet": "graph"}))}
    given |= {name: value for name, value in options.items() if name != "base"}
    if "controls" in given:
        given["controls"] = [scedit.Control(kind, image=made / "canny.png") for kind in given["controls"]]
    with pytest.raises(SceditError, match=message):
        scedit.generate(**GIVEN | given, out=tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_another_base_than_the_graphs_is_refused(made, tmp_path):
    torch.manual_seed(5)
    parts = tiny.pipeline("sd15").components | {"unet": tiny.one_block()}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(tmp_path / "other")
    with pytest.raises(SceditError, match="was exported from .* has other weights"):
        scedit.generate(base=BaseConfig(tmp_path / "other", unet=made / "graph"), **GIVEN)
