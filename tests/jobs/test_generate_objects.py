"""`scedit.generate` from Python: what is passed as objects draws what the command line draws, and stays as it was."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor
from typer.testing import CliRunner

import scedit_cli as scedit
from scedit_cli import BaseConfig, Control, InitImage, OutputConfig, Overrides, Prompt, SamplerConfig, SceditError
from scedit_cli.cli import app
from scedit_cli.core.attach import attached
from scedit_cli.models.base import load_base
from tests import tiny
from tests.jobs.drawn import annotate, draw, pixels, settings
from tests.recorder import notes_to


@pytest.fixture
def photo(files):
    return Image.open(files / "photo.png").convert("RGB")


@pytest.fixture
def tuners(files):
    return {name: scedit.load_tuner(files / f"{name}.safetensors") for name in ("canny", "color", "style", "both")}


def drawn(base, **options) -> np.ndarray:
    """The one image that is drawn in two steps, (H, W, 3)."""
    [image] = scedit.generate(base=base, **{"prompts": "a cube", "steps": 2} | options).images
    assert image.path is None
    return np.asarray(image.image).astype(int)


def test_objects_draw_what_the_command_line_draws(base, files, masks, tuners, tmp_path):
    words = [
        "generate", "--base", base.name, "--prompt", "a cube", "--prompt", "a cone", "--seed", "3,9", "--negative", "fog",
        "--cond", f"canny={files}/canny.png:0.7:0-0.5", "--cond-from", f"color={files}/photo.png:-0.3",
        "--param", "color.cells=4", "--tuner", f"{files}/both.safetensors:0.8", "--tuner", f"{files}/color.safetensors",
        "--scale", "both=0.4", "--sweep", "canny=0.3,1", "--mask", f"canny={masks}/left.png", "--steps", "3",
        "--guidance", "4", "--control-guidance", "2.5", "--guidance-span", "0.2-0.9", "--guidance-rescale", "0.2",
        "--width", "128", "--height", "64", "--resize", "fit", "--scheduler", "euler a", "--batch", "3", "--score", "--out", str(tmp_path / "out"), "--json",
    ]  # fmt: skip
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    written = json.loads(answer.stdout)["images"]
    made = scedit.generate(
        ["a cube", Prompt("a cone")],
        base=base,
        seeds=[3, 9],
        tuners=[(tuners["both"], 0.8), files / "color.safetensors"],
        controls=[
            Control("canny", Image.open(files / "canny.png"), scale=0.7, end=0.5, mask=f"{masks}/left.png"),
            Control("color", photo=Image.open(files / "photo.png"), scale=-0.3, params={"cells": 4}),
        ],
        overrides=Overrides({"tuners[0]": 0.4}, {"canny": [0.3, 1]}),
        steps=3,
        guidance=4,
        sampler=SamplerConfig(
            control_guidance=2.5, guidance_rescale=0.2, guidance_span=(0.2, 0.9), width=128, height=64, resize="fit",
            scheduler="euler a", batch_size=3, negative="fog",
        ),
        out=OutputConfig(score=True),
    )  # fmt: skip
    assert len(made.images) == len(written) == 8
    for image, file in zip(made.images, written, strict=True):
        assert np.array_equal(np.asarray(image.image), pixels(file["path"]))
        assert (image.seed, image.prompt, image.scores) == (file["seed"], file["prompt"], file["scores"])
        assert image.image.mode == "RGB" and image.path is None and set(image.scores) == {"canny", "color"}


def test_a_written_image_is_read_from_its_file(base, tmp_path):
    [image] = scedit.generate("a cube", base=base, steps=2, out=tmp_path / "a.png").images
    assert image.path == tmp_path / "a.png" and np.array_equal(np.asarray(image.image), pixels(image.path))
    assert np.array_equal(np.asarray(image.image), drawn(base))


@pytest.mark.parametrize("kind", ["canny", "color"])
def test_a_path_an_image_and_a_tensor_are_the_same_condition(base, files, tuners, kind):
    file = files / f"{kind}.png"
    opened = Image.open(file)
    forms = [file, str(file), opened, to_tensor(opened), to_tensor(opened).to(torch.float64)]
    first, *others = (drawn(base, controls=[Control(kind, form)], tuners=[tuners[kind]]) for form in forms)
    assert all(np.array_equal(first, other) for other in others)
    assert (first != drawn(base)).any()


def test_photographs_masks_and_starts_may_be_in_memory(base, files, masks, photo, tuners):
    given = {"tuners": [tuners["canny"]], "prompts": "a"}
    by_path = Control("canny", photo=files / "photo.png", mask=masks / "left.png")
    in_memory = Control("canny", photo=to_tensor(photo), mask=to_tensor(Image.open(masks / "left.png")))
    within = drawn(base, controls=[by_path], **given)
    assert np.array_equal(within, drawn(base, controls=[in_memory], **given))
    whole = replace(in_memory, mask=None)
    assert (within != drawn(base, controls=[whole], **given)).any()
    regions = Overrides(masks={"canny": Image.open(masks / "left.png")})
    assert np.array_equal(within, drawn(base, controls=[whole], overrides=regions, **given))
    starts = [
        InitImage(files / "photo.png", 0.5, masks / "left.png"), InitImage(photo, 0.5, Image.open(masks / "left.png")),
        InitImage(to_tensor(photo), 0.5, to_tensor(Image.open(masks / "left.png"))),
    ]  # fmt: skip
    first, *others = (drawn(base, init=start, steps=4) for start in starts)
    assert all(np.array_equal(first, other) for other in others)
    assert np.array_equal(first[:, 32:], np.asarray(photo)[:, 32:])


def test_the_document_of_images_in_memory_has_no_paths(base):
    found = scedit.generate("x", base=base, steps=1, guidance=1.0)
    assert found.document()["images"][0]["path"] is None


def test_a_range_of_settings_is_refused_by_its_field(base, files):
    with pytest.raises(SceditError, match="give a number or a text") as caught:
        scedit.generate(base=base, controls=Control("canny", photo=Image.new("RGB", (64, 64)), params={"low": [1, 2]}))
    assert caught.value.field == "controls[0].params['low']"


def test_each_prompt_may_have_its_own_controls_and_masks(base, files, masks, tuners):
    left, right = (Control("canny", files / "canny.png", mask=masks / f"{side}.png") for side in ("left", "right"))
    given = {"base": base, "steps": 2, "tuners": [tuners["canny"]]}
    prompts = [Prompt("a", controls={"canny": left}), Prompt("a", controls={"canny": right}), Prompt("a")]
    made = scedit.generate([*prompts, Prompt("a", controls={"canny": None})], controls=[left], **given).images
    one, two, common, none = (np.asarray(image.image) for image in made)
    assert np.array_equal(one, common) and (one != two).any() and np.array_equal(none, drawn(base, prompts="a"))
    assert np.array_equal(two, drawn(base, prompts="a", controls=[right], tuners=[tuners["canny"]]))


def test_nothing_is_written_without_a_place(base, files, tuners, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = scedit.generate(
        ["a", "b"], base=base, steps=1, controls=[Control("canny", files / "canny.png")], tuners=[tuners["canny"]]
    )
    assert not list(tmp_path.iterdir()) and [image.path for image in made.images] == [None, None]


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_passed_stays_as_it_was(files, photo, dtype):
    base = load_base(tiny.pipeline_folder("sd15"), dtype=dtype)
    foreign = tiny.trained(scedit.CSCTuner.for_unet(base.unet, condition="hint", hint_channels=16))
    style = scedit.load_tuner(files / "style.safetensors")
    image, before = copy.deepcopy(photo), [state(each) for each in (base.unet, base.vae, foreign, style)]
    hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in base.unet.modules()]
    scheduler, facts = dict(base.scheduler.config), (dict(foreign.metadata), dict(style.metadata))
    options = BaseConfig(base, vae_slicing=True, vae_tiling=True)
    scedit.generate(
        "a", base=options, steps=2, tuners=[(style, 0.5), foreign], controls=[Control("canny", photo=photo)],
        sampler=SamplerConfig(scheduler="euler"),
    )  # fmt: skip
    for module, tensors in zip((base.unet, base.vae, foreign, style), before, strict=True):
        now = module.state_dict()
        assert now.keys() == tensors.keys() and all(torch.equal(now[n], tensors[n]) for n in now)
        assert all(now[name].dtype == tensors[name].dtype for name in now)
    assert hooks == [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in base.unet.modules()]
    assert attached(base.unet) is None and foreign.condition == "hint"
    assert (foreign.metadata, style.metadata) == facts and dict(base.scheduler.config) == scheduler
    assert not (base.vae.use_slicing or base.vae.use_tiling) and np.array_equal(np.asarray(photo), np.asarray(image))


def test_fresh_tuners_keep_their_conditions(base, files):
    """They carry no metadata, as other programs' do, whose order counts."""
    kinds = ("canny", "color")
    canny, color = (
        tiny.trained(scedit.CSCTuner.for_unet(base.unet, kind, hint_channels=8), seed) for seed, kind in enumerate(kinds)
    )
    controls = [Control(kind, files / f"{kind}.png") for kind in kinds]
    one, other = (drawn(base, tuners=given, controls=controls) for given in ([canny, color], [color, canny]))
    color.condition, canny.condition = kinds
    assert np.abs(one - other).max() <= 1 < np.abs(one - drawn(base, tuners=[canny, color], controls=controls)).max()


def test_an_image_of_objects_says_that_no_file_holds_them(base, files, tuners, tmp_path):
    controls = [Control("canny", Image.open(files / "canny.png"))]
    scedit.generate(base=base, steps=1, controls=controls, tuners=[tuners["canny"]], out=tmp_path / "a.png")
    assert settings(tmp_path / "a.png")["in_memory"] == ["canny image", "tuners[0]"]
    with pytest.raises(SceditError, match=r"--from .*a.png: no file holds its canny image, tuners\[0\]"):
        draw(from_file=tmp_path / "a.png")


BAD = {
    "prompts": [{"prompts": 3}],
    "prompts[1]": [{"prompts": ["a", None]}],
    "base": [{"base": 3}, {"base": torch.nn.Linear(1, 1)}],
    "base.dtype": [{"base": BaseConfig(dtype="int8")}],
    "tuners[0]": [{"tuners": [3]}, {"tuners": [("a", "b", "c")]}, {"tuners": [torch.nn.Linear(1, 1)]}],
    "tuners[0].scale": [{"tuners": [("canny", float("nan"))]}],
    "controls[0]": [{"controls": ["canny=a.png"]}],
    "controls[0].kind": [{"controls": [Control(3, Image.new("L", (64, 64)))]}],
    "controls[0].image": [
        {"controls": [Control("canny")]},
        {"controls": [Control("canny", "gone.png")]},
        {"controls": [Control("canny", 3)]},
        {"controls": [Control("canny", torch.zeros(64, 64))]},
        {"controls": [Control("canny", torch.zeros(2, 64, 64))]},
        {"controls": [Control("canny", torch.zeros(3, 64, 64, dtype=torch.uint8))]},
        {"controls": [Control("canny", torch.full((3, 64, 64), 1.5))]},
        {"controls": [Control("canny", torch.full((3, 64, 64), float("nan")))]},
        {"controls": [Control("canny", Image.new("L", (64, 64)), photo=Image.new("L", (64, 64)))]},
    ],
    "controls[0].photo": [{"controls": [Control("cany", photo=Image.new("L", (64, 64)))]}],
    "controls[0].scale": [
        {"controls": [Control("canny", Image.new("L", (64, 64)), scale=scale)]} for scale in (float("nan"), "1", None)
    ],
    "controls[0].mask": [{"controls": [Control("canny", Image.new("L", (64, 64)), mask=3)]}],
    "prompts[1].controls['canny'].scale": [
        {"prompts": ["a", Prompt("b", controls={"canny": Control("canny", Image.new("L", (64, 64)), scale=None)})]}
    ],
    "seeds": [{"seeds": -1}, {"seeds": [1.5]}, {"seeds": []}, {"seeds": "7"}, {"seeds": None}],
    "sampler": [{"sampler": {"steps": 3}}],
    "sampler.steps": [{"steps": 0}, {"steps": None, "sampler": SamplerConfig(steps=2.5)}],
    "sampler.guidance": [{"guidance": float("nan")}, {"guidance": "4"}],
    "sampler.control_guidance": [
        {"sampler": SamplerConfig(control_guidance=scale)} for scale in (float("nan"), "2", 0.5, 2.0)
    ],
    "sampler.scheduler": [{"sampler": SamplerConfig(scheduler="oiler")}],
    "sampler.resize": [{"sampler": SamplerConfig(resize="squash")}],
    "sampler.guidance_span": [{"sampler": SamplerConfig(guidance_span=(0.5, 0.2))}],
    "sampler.place": [
        *({"sampler": SamplerConfig(place=place)} for place in ((5, 2), (-1, 2), (0.0, 2), (0, True), (0,), "xy", 3)),
        {"sampler": SamplerConfig(place=(0, 2)), "seeds": [1, 2]},
        {"sampler": SamplerConfig(place=(0, 2)), "prompts": ["a", "b"]},
    ],
    "init": [{"init": Image.new("RGB", (64, 64))}],
    "init.strength": [{"init": InitImage(Image.new("RGB", (64, 64)), strength=0.0)}],
    "init.mask": [{"init": InitImage(Image.new("RGB", (64, 64)), mask=Image.new("L", (32, 64), 255))}],
    "overrides.scales": [{"overrides": Overrides({"cany": 1})}],
    "overrides.masks": [{"overrides": Overrides(masks={"style": Image.new("L", (64, 64), 255)})}],
    "out": [{"out": 3}],
    "out.grid": [{"out": OutputConfig(grid=True)}],
    "out.score": [{"out": OutputConfig(score=True)}],
}


@pytest.mark.parametrize(("field", "options"), [(field, each) for field, several in BAD.items() for each in several])
def test_a_bad_object_is_named_by_its_field(base, tmp_path, monkeypatch, field, options):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SceditError) as error:
        scedit.generate(**{"base": base, "steps": 1, "out": tmp_path / "out"} | options)
    assert error.value.field == field and error.value.hint and not (tmp_path / "out").exists()


def test_a_control_without_its_tuner_or_of_another_base_is_named(base, files, photo, tuners):
    control = Control("color", files / "color.png")
    other = scedit.CSCTuner.for_unet(tiny.unet("sdxl"), condition="color", hint_channels=8)
    sibling = scedit.load_tuner(files / "sibling.safetensors")
    for options, field, message in (
        ({"controls": [control]}, "controls[0]", "color.png: no tuner takes color conditions"),
        ({"tuners": [tuners["style"], tuners["canny"]]}, "tuners[1]", r"tuners\[1\] takes a canny condition, and none"),
        ({"controls": [control], "tuners": [other]}, "tuners[0]", "whose skips have other channels"),
        ({"controls": [Control("canny", files / "canny.png")], "tuners": [sibling]}, "tuners[0]", "other weights"),
        (
            {"controls": [Control("canny", photo=photo, params={"lo": 3})], "tuners": [tuners["canny"]]},
            "controls[0].params", "no parameter 'lo'",
        ),
    ):
        with pytest.raises(SceditError, match=message) as error:
            scedit.generate(base=base, steps=1, **options)
        assert error.value.field == field
    notes = []
    scedit.generate(
        base=BaseConfig(base, any_base=True), steps=1, tuners=[sibling], controls=[Control("canny", files / "canny.png")],
        reporter=notes_to(notes.append),
    )  # fmt: skip
    assert len(notes) == 1 and "other weights" in notes[0]


def test_settings_of_a_loaded_base_are_refused(base):
    for name, value in {"vae": "x", "prediction": "epsilon", "dtype": "fp16", "device": "cpu"}.items():
        with pytest.raises(SceditError, match="has no effect on a base that is loaded") as error:
            scedit.generate(base=BaseConfig(base, **{name: value}), steps=1)
        assert error.value.field == f"base.{name}"


def test_an_annotated_image_is_a_condition(base, files, photo, tuners, tmp_path):
    edges = scedit.annotate(photo, "canny", low=50)
    annotate(files / "photo.png", "canny", tmp_path / "edges.png", params=["low=50"])
    given = {"tuners": [tuners["canny"]]}
    one = drawn(base, controls=[Control("canny", edges)], **given)
    assert np.array_equal(one, drawn(base, controls=[Control("canny", tmp_path / "edges.png")], **given))
    assert np.array_equal(one, drawn(base, controls=[Control("canny", photo=photo, params={"low": 50})], **given))
