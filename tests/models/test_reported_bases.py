"""Bases and autoencoders as people reported them: read for what they mean, or refused in a sentence."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from scedit_cli.models import single_file
from scedit_cli.models.base import load_base
from scedit_cli.utils.errors import SceditError
from tests import tiny
from tests.original_layout import save_configs, save_original

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
PAGE = "<!doctype html>\n<html class=\"\"><head></head></html>"
POSITIONS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """Writes a tiny SD1.5 as a single file whose weights `change` has changed."""
    pipeline = tiny.pipeline("sd15")
    save_configs(pipeline, "sd15", tmp_path / "configs")
    monkeypatch.setattr(single_file, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(single_file, "tokenizer", lambda pad="": tiny.tokenizer())

    def write(change):
        file = tmp_path / "base.safetensors"
        save_original(pipeline, "sd15", file)
        save_file({key: value.clone() for key, value in change(load_file(file)).items()}, file)
        return file

    return write


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(tiny.pipeline_folder("sd15"), tmp_path / "base")
    return tmp_path / "base"


def answer(base):
    """What the U-Net says about a prompt: all of its weights and the text encoder's take part."""
    draw = torch.Generator().manual_seed(0)
    text = tiny.aligned(base).unet_arguments(base.encode_prompts(["a red cube"]), 64, 64)
    with torch.no_grad():
        noise = base.unet(torch.randn(1, 4, 8, 8, generator=draw), 500, **text).sample
        return noise, base.decode(torch.randn(1, 4, 8, 8, generator=draw))


def assert_same(base, expected=None):
    for one, other in zip(answer(base), answer(expected or load_base(tiny.pipeline_folder("sd15"))), strict=True):
        assert torch.equal(one, other)


# webui#6728, Merge-Stable-Diffusion-models-without-distortion#29: merging turns positions into fractions.
@pytest.mark.parametrize("positions", [
    torch.arange(77)[None].float() - 0.4, torch.arange(77)[None].half(), (torch.arange(77)[None] - 1).clamp(0),
], ids=["fractions", "half", "shifted"])  # fmt: skip
def test_the_positions_that_a_merge_has_spoilt_are_not_used(checkpoint, positions):
    assert_same(load_base(checkpoint(lambda weights: weights | {POSITIONS: positions})))


# Checkpoints of CompVis's trainer keep a moving average beside the weights, and its schedule.
def test_a_trainers_moving_average_and_schedule_are_left_where_they_are(checkpoint):
    def change(weights):
        averaged = {
            f"model_ema.{key.removeprefix('model.').replace('.', '')}": torch.full_like(value, 7.0)
            for key, value in weights.items()
            if key.startswith("model.diffusion_model.")
        }
        schedule = {"betas": torch.ones(1000), "alphas_cumprod": torch.ones(1000)}
        return weights | averaged | schedule | {"model_ema.decay": torch.tensor(0.999)}

    assert_same(load_base(checkpoint(change)))


def test_plain_fp8_files_are_read_as_their_values(checkpoint):
    eight = torch.float8_e4m3fn

    def rounded(weights):
        return {k: v.to(eight) if v.dim() > 1 else v for k, v in weights.items()}

    found = answer(load_base(checkpoint(rounded)))
    expected = answer(load_base(checkpoint(lambda w: {k: v.float() for k, v in rounded(w).items()})))
    assert all(map(torch.equal, found, expected))


# stable-diffusion.cpp#1898, ComfyUI#13239, LTX-2#172: without their scales such weights are hundreds of times too
# large.
@pytest.mark.parametrize("name", [
    "scaled_fp8", "model.diffusion_model.time_embed.0.scale_weight", "model.diffusion_model.time_embed.0.weight_scale",
    "model.diffusion_model.time_embed.0.comfy_quant", "model.diffusion_model.time_embed.0.weight.absmax",
    "model.diffusion_model.time_embed.0.weight.quant_state.bitsandbytes__nf4",
])  # fmt: skip
def test_quantised_weights_with_scales_of_their_own_are_refused(checkpoint, name):
    file = checkpoint(lambda weights: weights | {name: torch.tensor([0.5])})
    with pytest.raises(SceditError, match=f"its weights are quantised, with scales of their own \\({name}\\)") as told:
        load_base(file)
    assert "fp16" in told.value.hint


# diffusers#13559, #4406: a clone without Git LFS, and a page saved as a file.
@pytest.mark.parametrize(("stand_in", "what"), [(LFS, "a Git LFS pointer"), (PAGE, "a web page")])
@pytest.mark.parametrize("file", [
    "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "tokenizer/tokenizer.json",
    "vae/diffusion_pytorch_model.safetensors",
])  # fmt: skip
def test_files_that_were_not_downloaded_are_told_as_such(folder, file, stand_in, what):
    (folder / file).write_text(stand_in)
    with pytest.raises(SceditError, match=f"{file} is {what}, not the file itself"):
        load_base(folder)
    if file.startswith("vae"):
        for place in (folder, folder / "vae", folder / file):
            with pytest.raises(SceditError, match=f"is {what}, not the file itself"):
                load_base(tiny.pipeline_folder("sd15"), vae=place)
    (folder / "single.safetensors").write_text(stand_in)
    with pytest.raises(SceditError, match=f"single.safetensors is {what}"):
        load_base(folder / "single.safetensors")


# git lfs pull --include: what is not read need not be there.
def test_pointers_beside_what_is_read_are_nobodys_business(folder):
    for name in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors", "model.ckpt",
                 "diffusion_pytorch_model.non_ema.safetensors"):  # fmt: skip
        for part in ("unet", "vae"):
            (folder / part / name).write_text(LFS)
    assert_same(load_base(folder))
    assert load_base(tiny.pipeline_folder("sd15"), vae=folder / "vae").vae_name
    with pytest.raises(SceditError, match=r"unet/diffusion_pytorch_model.fp16.safetensors is a Git LFS pointer"):
        load_base(folder, dtype=torch.float16)


# diffusers' autoencoders of 2022 and 2023, such as sd-vae-ft-mse: query, key, value and proj_attn.
@pytest.mark.parametrize("place", ["vae", "vae/diffusion_pytorch_model.safetensors"])
def test_older_names_of_an_autoencoders_attention_are_read(folder, place):
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(key):
        for new, old in older.items():
            key = key.replace(new, old)
        return key

    weights = load_file(file)
    save_file({renamed(key): value for key, value in weights.items()}, file)
    assert set(load_file(file)) != set(weights)
    assert_same(load_base(folder))
    assert_same(load_base(tiny.pipeline_folder("sd15"), vae=folder / place))


# transformers then makes a tokenizer of its own, to which every letter is unknown.
@pytest.mark.parametrize("lost", ["vocab.json", "merges.txt"])
def test_a_tokenizer_without_its_vocabulary_is_refused(folder, lost):
    tokens = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(tokens["vocab"]))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    assert_same(load_base(folder))  # the releases' own two files
    (folder / "tokenizer" / lost).unlink()
    with pytest.raises(SceditError, match=f"tokenizer/{lost} is missing"):
        load_base(folder)


# diffusers#6652, #10928, mochi#119: weights in one variant alone, or in it for some parts.
@pytest.mark.parametrize(("variant", "parts"), [
    ("fp16", ("unet", "vae", "text_encoder")), ("non_ema", ("unet", "vae", "text_encoder")), ("bf16", ("unet",)),
    ("bf16", ("text_encoder",)), ("bf16", ("vae",)),
])  # fmt: skip
def test_a_variant_that_is_there_alone_is_read(folder, variant, parts):
    for part in parts:
        for file in (folder / part).glob("*.safetensors"):
            file.rename(file.with_name(file.name.replace(".safetensors", f".{variant}.safetensors")))
    base = load_base(folder)
    assert_same(base)
    assert_same(load_base(tiny.pipeline_folder("sd15"), vae=folder / "vae"))


def test_shards_of_a_variant_are_read(folder):
    unet = load_base(folder).unet
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", max_shard_size="200KB", variant="bf16")
    assert len(list((folder / "unet").glob("*.bf16-*.safetensors"))) > 2
    assert_same(load_base(folder))


# diffusers#6923, #6753, sdnext#2824: washed-out pictures from an autoencoder of the other family.
def test_an_autoencoder_of_another_scale_is_refused(folder):
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.13025}))
    with pytest.raises(SceditError, match=r"its latents are scaled by 0\.13025, the base's by 0\.18215"):
        load_base(tiny.pipeline_folder("sd15"), vae=folder / "vae")
    assert load_base(folder, vae=folder / "vae").vae.config.scaling_factor == 0.13025
