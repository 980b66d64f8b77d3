"""Conditions are made, and pictures measured, with the settings that are known; from weights that lie here."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import scedit_cli as scedit
from scedit_cli import Control, conditions
from scedit_cli.conditions import annotate
from scedit_cli.conditions.annotation_spec import make_specs
from scedit_cli.conditions.registry import Annotator, Kind, all_kinds, find
from scedit_cli.core.tuners import CSCTuner
from scedit_cli.core.weights import save_tuner
from scedit_cli.jobs import generate as job
from scedit_cli.utils.errors import SceditError
from tests.conditions.local_weights import save_weights
from tests.jobs.drawn import annotate as annotate_job
from tests.jobs.drawn import same, settings

TUNED = {"tuners": ["{}/canny.safetensors"]}


def _score(image, condition, **parameters) -> float:
    [figures] = conditions.measured("canny", [Image.open(image.path)], [Image.open(condition)], **parameters)
    return figures["consistency"]


def test_pictures_are_measured_as_their_condition_was_made(generate, files, tmp_path):
    edges = tmp_path / "canny.png"
    annotate_job(files / "photo.png", "canny", edges, params=["low=10", "high=30"])
    (image,) = generate(conds=[str(edges)], score=True, **TUNED).images
    assert image.scores["canny"] == pytest.approx(_score(image, edges, low=10, high=30))
    assert image.scores["canny"] != pytest.approx(_score(image, edges), abs=1e-3)
    (told,) = generate(conds=[str(edges)], params=["high=90"], score=True, **TUNED).images
    assert told.scores["canny"] == pytest.approx(_score(told, edges, low=10, high=90))


def test_a_photo_is_annotated_with_the_settings_given_and_again(generate, files, tmp_path):
    made = generate(conds_from=["canny={}/photo.png"], params=["low=10", "canny.high=30"], score=True, **TUNED)
    photo = Image.open(files / "photo.png")
    expected = annotate("canny", photo, low=10, high=30)
    assert np.array_equal(np.asarray(made.conditions["canny"]), np.asarray(expected))
    assert not np.array_equal(np.asarray(expected), np.asarray(annotate("canny", photo)))
    expected.save(tmp_path / "expected.png")
    (image,) = made.images
    assert image.scores["canny"] == pytest.approx(_score(image, tmp_path / "expected.png", low=10, high=30))
    again = generate(from_file=image.path, steps=None)
    assert same(again.images[0].path, image.path)
    assert settings(image.path)["params"] == settings(again.images[0].path)["params"] == [
        "canny.low=10", "canny.high=30"
    ]  # fmt: skip


def test_a_tuners_recipe_tells_what_it_was_taught(generate, files, base, tmp_path):
    tuner = CSCTuner.for_unet(base.unet, condition="canny", hint_channels=8)
    about = {"base_fingerprint": base.fingerprint, "recipe": '[data]\nparams = ["low=10", "canny.high=30"]'}
    save_tuner(tuner, tmp_path / "taught.safetensors", about)
    made = generate(conds_from=["canny={}/photo.png"], tuners=[str(tmp_path / "taught.safetensors")])
    expected = annotate("canny", Image.open(files / "photo.png"), low=10, high=30)
    assert np.array_equal(np.asarray(made.conditions["canny"]), np.asarray(expected))


def test_an_annotators_weights_may_lie_here(generate, base, tmp_path):
    [order] = make_specs(["lineart"])
    weights = save_weights(order.annotator, tmp_path / "weights")
    tuner = CSCTuner.for_unet(base.unet, condition="lineart", hint_channels=8)
    save_tuner(tuner, tmp_path / "lineart.safetensors", {"base_fingerprint": base.fingerprint})
    options = {"conds_from": ["lineart={}/photo.png"], "tuners": [f"{tmp_path}/lineart.safetensors"]}
    options |= {"params": ["resolution=64"], "score": True}
    made = generate(**options, weights=weights)
    assert set(made.images[0].scores) == {"lineart"}
    assert settings(made.images[0].path)["weights"] == str(weights)
    again = generate(from_file=made.images[0].path, steps=None, out=tmp_path / "again")
    assert again.images[0].path.read_bytes() == made.images[0].path.read_bytes()
    (tmp_path / "none").mkdir()
    for more in ({}, {"score": False}):
        with pytest.raises(SceditError, match="sk_model.pth") as error:
            generate(**options | more, weights=tmp_path / "none", out=tmp_path / "nothing")
        assert f"--weights {tmp_path}/none" in error.value.hint
    assert not (tmp_path / "nothing").exists()


@pytest.fixture
def shades(monkeypatch, tmp_path):
    """Annotators of canny and color that draw one gray, which their weights' folder holds; and three such folders."""

    def gray(parameters, weights, device):
        level = int((weights / "level").read_text())
        return lambda pictures: [Image.new("RGB", each.size, (level,) * 3) for each in pictures]

    for kind in ("canny", "color"):
        maker = Annotator(kind, "gray", "none", gray, weights=("somebody/weights",))
        monkeypatch.setitem(all_kinds(), kind, Kind(kind, (maker,), find(kind).measure))
    folders = {level: tmp_path / f"{level}" for level in (0, 100, 200)}
    for level, folder in folders.items():
        folder.mkdir()
        (folder / "level").write_text(f"{level}")
    return folders


def test_each_condition_is_made_by_its_own_weights_and_again(generate, base, files, shades, tmp_path):
    tuners = [files / "canny.safetensors", files / "color.safetensors"]

    def drawn(first, second):
        levels = {"canny": first, "color": second}
        controls = [Control(kind, photo=files / "photo.png", weights=shades[level]) for kind, level in levels.items()]
        out = tmp_path / f"{first}-{second}.png"
        made = scedit.generate(base=base, tuners=tuners, controls=controls, steps=2, out=out)
        assert {kind: image.getpixel((0, 0))[0] for kind, image in made.conditions.items()} == levels
        return made.images[0].path

    differing, alike = drawn(0, 200), drawn(100, 100)
    said = [(settings(each)["weights"], settings(each).get("weights_of")) for each in (differing, alike)]
    folders = [f"canny={shades[0]}", f"color={shades[200]}"]
    assert said == [(None, folders), (str(shades[100]), None)]
    for path in (differing, alike):
        assert same(generate(from_file=path, steps=None).images[0].path, path)
    told = generate(from_file=differing, steps=None, weights=shades[100])
    assert {image.getpixel((0, 0))[0] for image in told.conditions.values()} == {100}


def test_one_photograph_under_several_weights_is_several_conditions(base, files, shades):
    prompts = [
        scedit.Prompt("a", controls={"canny": Control("canny", photo=files / "photo.png", weights=shades[level])})
        for level in (0, 200)
    ]
    made = scedit.generate(prompts, base=base, tuners=[files / "canny.safetensors"], steps=2, seeds=1)
    alone = scedit.generate(prompts[1:], base=base, tuners=[files / "canny.safetensors"], steps=2, seeds=1)
    first, second, only = (np.asarray(each.image).astype(int) for each in (*made.images, *alone.images))
    assert np.abs(second - only).max() <= 1 < np.abs(first - only).max()


def test_networks_of_annotators_compute_where_the_base_does(generate, files, monkeypatch):
    """Of the condition that is made and of the pictures that are measured; the network here sees on an accelerator what
    it does not on the CPU, and the accelerator is "meta", which this base is not asked to draw on."""

    def edges(parameters, weights, device):
        low, high = (10, 30) if device == "meta" else (100, 200)
        return lambda pictures: [Image.fromarray(cv2.Canny(np.asarray(each), low, high)) for each in pictures]

    network = Annotator("canny", "network", "none", edges, weights=("somebody/weights",))
    usual = find("canny")
    photo = Image.open(files / "photo.png")
    expected = {"meta": annotate("canny", photo, low=10, high=30), "cpu": annotate("canny", photo)}
    monkeypatch.setitem(all_kinds(), "canny", Kind("canny", (network,), usual.measure))
    for name, device in (("meta", None), ("cpu", "cpu")):
        monkeypatch.setattr(job, "best_device", lambda: torch.device("meta"))
        made = generate(conds_from=["canny={}/photo.png"], score=True, device=device, **TUNED)
        assert np.array_equal(np.asarray(made.conditions["canny"]), np.asarray(expected[name]))
        (image,) = made.images
        drawn = np.asarray(Image.open(image.path))
        own = {
            other: usual.measure.compare(Image.fromarray(cv2.Canny(drawn, *limits)), expected[name])
            for other, limits in (("meta", (10, 30)), ("cpu", (100, 200)))
        }
        assert image.scores["canny"] == pytest.approx(own[name]["consistency"]) and own["meta"] != own["cpu"]
        assert made.document()["device"] == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conds": ["{}/canny.png"], "params": ["low=5"]}, "--param: the canny condition is neither made"),
        ({"conds_from": ["canny={}/photo.png"], "params": ["color.cells=5"]}, "no color is made here"),
        ({"conds_from": ["canny={}/photo.png"], "params": ["low=5..9"]}, "--param canny.low=5..9: one image"),
        ({"params": ["low=5"], "tuners": []}, "--param low=5: expected KIND.NAME=VALUE"),
    ],
)
def test_settings_without_effect_are_told(generate, tmp_path, options, message):
    with pytest.raises(SceditError, match=message) as error:
        generate(**TUNED | options)
    assert error.value.hint and not (tmp_path / "out").exists()


def test_another_autoencoder(generate, tmp_path):
    from tests import tiny

    other = tiny.pipeline("sd15", seed=5).vae
    other.save_pretrained(tmp_path / "vae")
    made, plain = generate(vae=tmp_path / "vae").images[0].path, generate().images[0].path
    assert not same(made, plain)
    assert (settings(made)["vae"], settings(plain)["vae"]) == (str(tmp_path / "vae"), None)
    again = generate(from_file=made, steps=None).images[0].path
    assert same(made, again)
    tiny.pipeline("sd15", seed=6).vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(SceditError, match="vae/diffusion_.* is not the file that it was made with"):
        generate(from_file=made, steps=None)
    with pytest.raises(SceditError, match="autoencoder gone.safetensors: no such folder or file"):
        generate(vae="gone.safetensors")
