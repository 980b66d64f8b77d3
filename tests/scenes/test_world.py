"""What is shipped: the embedded pipeline, its reader and its tuners, on scenes that none of them has learnt from.

The thresholds are below the measured figures in the README, since few scenes are looked at here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scedit_cli.core.weights import load_tuner
from scedit_cli.data.scenes import example
from scedit_cli.inference.sampler import sample, to_tensor
from scedit_cli.models.base import load_base
from scedit_cli.scenes import HELD_OUT_SEED, WORLD, shipped_tuner, tuner_place
from scedit_cli.scenes.captions import caption
from scedit_cli.scenes.layout import sample_scene
from scedit_cli.scenes.reader import load_reader
from scedit_cli.scenes.render import render
from scedit_cli.training.evaluation import control_scores, named_share, style_score
from scedit_cli.utils.errors import SceditError

CONTROLS = ("canny", "color", "depth", "gradient", "inpaint", "normal", "seg")
SEEDS = range(HELD_OUT_SEED, HELD_OUT_SEED + 16)


@pytest.fixture(scope="module")
def base():
    return load_base("scenes")


def test_it_is_small_and_holds_no_pickles() -> None:
    files = [path for path in WORLD.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40e6
    assert {path.suffix for path in files} == {".json", ".safetensors"}


def test_diffusers_loads_and_samples_it_as_any_other_pipeline() -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(WORLD / "base")
    pipeline.set_progress_bar_config(disable=True)
    # Clipping to [-1, 1] would cut latents, which are wider, to mush.
    assert pipeline.scheduler.config.clip_sample is False
    pictures = pipeline(
        "a red sphere on a gray floor", num_inference_steps=2, output_type="np", generator=torch.Generator()
    ).images
    assert pictures.shape == (1, 128, 128, 3) and np.isfinite(pictures).all()


def test_the_tokenizer_reads_any_text_and_the_world_s_words_as_one_token_each(base) -> None:
    tokenizer = base.pipeline().tokenizer
    assert len(tokenizer.tokenize("a checkered cyan cylinder, shiny")) == 6
    assert tokenizer("Zebra ünïcode 漢字 !?").input_ids[0] == tokenizer.bos_token_id
    longest = max(len(tokenizer(caption(sample_scene(seed))).input_ids) for seed in range(300))
    assert longest <= tokenizer.model_max_length


def test_latents_are_standard_and_pictures_survive_them(base) -> None:
    pictures = to_tensor([example(seed, ()).image for seed in SEEDS])
    latents = base.latents_from(base.encode_images(pictures))
    assert latents.shape == (16, 4, 16, 16)
    assert latents.mean((0, 2, 3)).abs().max() < 0.35 and (latents.std((0, 2, 3)) - 1).abs().max() < 0.35
    error = (base.decode(latents) - pictures).square().mean((1, 2, 3))
    assert (-10 * error.log10()).mean() > 28  # dB


@pytest.mark.parametrize("look", ["plain", "pastel"])
def test_the_reader_reads_what_was_rendered(look: str) -> None:
    scenes = [sample_scene(seed) for seed in SEEDS]
    truths = [render(scene, look=look) for scene in scenes]
    pictures = torch.from_numpy(np.stack([truth.image for truth in truths])).permute(0, 3, 1, 2) / 255
    reading = load_reader().read(pictures)
    segmentation = np.stack([truth.segmentation for truth in truths])
    assert (reading.segmentation.numpy() == segmentation).mean() > 0.9
    depth = np.stack([truth.depth for truth in truths])
    near = (depth < 12) & np.isfinite(reading.depth.numpy())
    assert (np.abs(reading.depth.numpy()[near] - depth[near]) / depth[near]).mean() < 0.08
    normals = np.stack([truth.normals for truth in truths]).transpose(0, 3, 1, 2)
    agreement = (reading.normals.numpy() * normals).sum(1)[segmentation > 0]
    assert agreement.mean() > 0.9  # cosine
    there = [{(thing.color, thing.shape) for thing in scene.objects} for scene in scenes]
    found = reading.objects()
    assert sum(len(t & f) for t, f in zip(there, found, strict=True)) / sum(map(len, there)) > 0.9


def test_gradients_pass_the_reader_wherever_it_was_loaded() -> None:
    load_reader.cache_clear()
    with torch.inference_mode():
        load_reader()
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    load_reader()(image)[-1].sum().backward()
    assert image.grad.abs().sum() > 0


def test_pictures_show_what_captions_name(base) -> None:
    captions = [caption(sample_scene(seed)) for seed in SEEDS]
    pictures = to_tensor(sample(base, captions, seeds=range(16), batch_size=16))
    assert named_share(captions, pictures) > 0.7


@pytest.mark.parametrize("kind", CONTROLS)
def test_a_shipped_tuner_controls_its_condition(base, kind: str) -> None:
    tuner = load_tuner(shipped_tuner(kind))
    assert tuner.condition == kind and tuner.metadata["base_fingerprint"] == base.fingerprint
    assert control_scores(base, [tuner], scenes=4, batch_size=4)[kind].score > 0.5


def test_the_shipped_style_carries_the_world_into_its_look(base) -> None:
    tuner = load_tuner(shipped_tuner("style"))
    assert tuner.kind == "sc" and tuner.metadata["base_fingerprint"] == base.fingerprint
    score = style_score(base, tuner, scenes=8)
    assert score.nearer > 0.7 and score.objects > 0.5


def test_a_folder_hides_a_shipped_tuner_only_where_it_holds_one(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "canny/images").mkdir(parents=True)
    assert tuner_place("canny") == shipped_tuner("canny")
    (tmp_path / "canny/images/mine.safetensors").touch()
    assert tuner_place("canny") == Path("canny")
    (tmp_path / "mine").mkdir()
    assert tuner_place("mine") == Path("mine")
    with pytest.raises(SceditError, match="no such tuner file"):
        tuner_place("x" * 5000)
    with pytest.raises(SceditError, match="no such tuner file"):
        load_tuner("x" * 5000 + ".safetensors")


def test_a_kind_that_is_not_shipped_is_told_with_those_that_are() -> None:
    with pytest.raises(SceditError, match="pose") as error:
        shipped_tuner("pose")
    assert all(kind in error.value.hint for kind in CONTROLS)
