"""Folders of bases are loaded whole or refused in a sentence: their weights, their U-Net's inputs, their scheduler."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from scedit_cli.benchmark.architecture import architecture
from scedit_cli.models.base import load_base
from scedit_cli.models.parts import variant_of
from scedit_cli.utils.errors import SceditError
from tests import tiny


@pytest.fixture
def copied(tmp_path):
    """Makes a copy of a family's folder to change."""
    return lambda family: shutil.copytree(tiny.pipeline_folder(family), tmp_path / "base")


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def weights_file(folder: Path, part: str) -> Path:
    return next((folder / part).glob("*.safetensors"))


def add_weights(file: Path, **more: torch.Tensor) -> None:
    named = {name.replace("__", "."): value for name, value in more.items()}
    save_file(load_file(file) | named, file, {"format": "pt"})


def put_unet(folder: Path, family: str, **changes) -> None:
    """A U-Net with weights of its own that differs in its configuration."""
    config = {key: value for key, value in tiny.unet(family).config.items() if not key.startswith("_")}
    UNet2DConditionModel.from_config(config | changes).save_pretrained(folder / "unet")


INPUTS = {
    "unclip": ("sd21", {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 64},
               "takes class_labels beside texts: the embedding of an image, as unCLIP's do"),
    "upscaler": ("sd21", {"num_class_embeds": 10, "in_channels": 7},
                 "takes class_labels beside texts: a class or a noise level, as upscalers' do"),
    "timestep": ("sd15", {"class_embed_type": "timestep"}, "takes class_labels beside texts: another noise level"),
    "image": ("sd15", {"addition_embed_type": "image", "encoder_hid_dim": 16},
              "takes more than texts: addition_embed_type is 'image'"),
    "text": ("sd15", {"addition_embed_type": "text", "addition_embed_type_num_heads": 4, "encoder_hid_dim": 16},
             "takes more than texts: addition_embed_type is 'text'"),
    "projected": ("sd15", {"encoder_hid_dim_type": "image_proj", "encoder_hid_dim": 16},
                  "takes more than texts: encoder_hid_dim_type is 'image_proj'"),
    "depth": ("sd21", {"in_channels": 5}, "its U-Net takes 5 channels, where latents have 4"),
    "pix2pix": ("sdxl", {"in_channels": 8}, "its U-Net takes 8 channels, where latents have 4"),
    "variance": ("sd15", {"out_channels": 8}, "its U-Net predicts 8 channels, where latents have 4"),
    "width": ("sd15", {"cross_attention_dim": 24}, "takes texts of width 24, its text encoders give 16"),
    "refiner": ("sdxl", {"projection_class_embeddings_input_dim": 5 * 8 + tiny.SECOND_WIDTH},
                "takes 64 numbers of sizes and pooled texts, where SDXL's six sizes and its text encoder give 72"),
    "no sizes": ("sdxl", {"addition_embed_type": None}, "takes no sizes and pooled texts, unlike a StableDiffusionXL"),
    "sizes": ("sd15", {"addition_embed_type": "text_time", "addition_time_embed_dim": 8,
                       "projection_class_embeddings_input_dim": 72},
              "takes sizes and pooled texts, unlike a StableDiffusionPipeline's"),
}  # fmt: skip


@pytest.mark.parametrize("case", INPUTS)
def test_a_unet_that_takes_what_it_is_not_given(copied, case):
    family, changes, sentence = INPUTS[case]
    folder = copied(family)
    put_unet(folder, family, **changes)
    with pytest.raises(SceditError, match=f"base {folder}: its U-Net {sentence.removeprefix('its U-Net ')}") as error:
        load_base(folder)
    assert error.value.hint and error.value.exit_code == 2


def test_what_a_projected_text_needs_is_given(copied):
    folder = copied("sd15")
    put_unet(folder, "sd15", encoder_hid_dim_type="text_proj", encoder_hid_dim=16, cross_attention_dim=24)
    tiny.train_a_step(load_base(folder))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"class_embed_type": "projection"}, "takes class_labels beside texts"),
        ({"in_channels": 5}, "takes 5 channels, where latents have 4"),
        ({"in_channels": 7}, "takes 7 channels, where latents have 4"),
        ({"in_channels": 8}, "takes 8 channels, where latents have 4"),
    ],
)
def test_a_base_is_refused_by_its_configuration_alone(copied, changes, sentence):
    folder = copied("sd21")
    edit(folder / "unet/config.json", **changes)
    weights_file(folder, "unet").write_bytes(b"never read")
    for load in (load_base, lambda place: architecture(str(place))):
        with pytest.raises(SceditError, match=sentence):
            load(folder)


@pytest.mark.parametrize(
    ("family", "part", "name"),
    [
        ("sd15", "unet", "class_embedding.linear_1.weight"),
        ("sd15", "unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight"),
        ("sd15", "unet", "mid_block.motion_modules.0.proj_in.weight"),
        ("sd21", "unet", "encoder_hid_proj.image_embeds.weight"),
        ("sdxl", "unet", "add_embedding.linear_3.weight"),
        ("sd15", "vae", "encoder.down_blocks.9.resnets.0.conv1.weight"),
        ("sd15", "text_encoder", "text_model.encoder.layers.7.mlp.fc1.weight"),
        ("sdxl", "text_encoder_2", "text_model.encoder.layers.7.mlp.fc1.weight"),
    ],
)
def test_a_weight_that_has_no_place(copied, family, part, name):
    folder = copied(family)
    file = weights_file(folder, part)
    save_file(load_file(file) | {name: torch.ones(2)}, file, {"format": "pt"})
    with pytest.raises(SceditError, match=f"base {folder}: weights of its {part} have no place in") as error:
        load_base(folder)
    assert name.removeprefix("text_model.") in error.value.message and error.value.exit_code == 2


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_a_weight_that_is_missing_and_one_that_is_spare(copied, part):
    """As many as there are places, so that counting finds nothing."""
    folder = copied("sdxl")
    file = weights_file(folder, part)
    weights = load_file(file)
    weights.pop(sorted(weights)[-1])
    save_file(weights | {"spare.weight": torch.ones(2)}, file, {"format": "pt"})
    with pytest.raises(SceditError, match=f"base {folder}: weights of its {part} are missing"):
        load_base(folder)


def test_what_clip_is_stored_with_and_nothing_uses(copied):
    folder = copied("sdxl")
    for part in ("text_encoder", "text_encoder_2"):
        add_weights(weights_file(folder, part), text_model__embeddings__position_ids=torch.arange(77)[None])
    more = {"text_projection__weight": torch.ones(16, 16), "logit_scale": torch.ones(())}
    add_weights(weights_file(folder, "text_encoder"), **more)
    base, plain = (tiny.aligned(load_base(place)) for place in (folder, tiny.pipeline_folder("sdxl")))
    text, expected = base.encode_prompts(["a"]), plain.encode_prompts(["a"])
    assert all(torch.equal(text[name], values) for name, values in expected.items())


def test_a_text_encoder_with_a_projection_gives_the_same_texts(copied):
    """Where diffusers would take the projection's output for the text."""
    folder = copied("sd15")
    index = json.loads((folder / "model_index.json").read_text())
    edit(folder / "model_index.json", text_encoder=[index["text_encoder"][0], "CLIPTextModelWithProjection"])
    bases = (tiny.aligned(load_base(place)) for place in (folder, tiny.pipeline_folder("sd15")))
    text, expected = (base.encode_prompts(["a"])["encoder_hidden_states"] for base in bases)
    assert torch.equal(text, expected)


@pytest.mark.parametrize(
    ("part", "kind", "sentence"),
    [
        ("vae", "AutoencoderTiny", "its vae is a AutoencoderTiny, not a AutoencoderKL"),
        ("vae", "AsymmetricAutoencoderKL", "its vae is a AsymmetricAutoencoderKL"),
        ("text_encoder", "T5EncoderModel", "its text_encoder is a T5EncoderModel"),
        ("text_encoder_2", "CLIPTextModel", "its text_encoder_2 is a CLIPTextModel, not a CLIPTextModelWithProjection"),
    ],
)
def test_a_part_of_another_class(copied, part, kind, sentence):
    folder = copied("sdxl")
    edit(folder / "model_index.json", **{part: ["transformers" if "text" in part else "diffusers", kind]})
    if kind == "AutoencoderTiny":
        blocks = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
        AutoencoderTiny(**blocks).save_pretrained(folder / "vae")
    with pytest.raises(SceditError, match=f"base {folder}: {sentence}"):
        load_base(folder)


def test_a_refiners_folder_is_told_as_one(copied):
    folder = copied("sdxl")
    edit(folder / "model_index.json", text_encoder=[None, None], tokenizer=[None, None])
    with pytest.raises(SceditError, match=f"base {folder}: an SDXL refiner"):
        load_base(folder)


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, "noise levels .* change with the image's"),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
         "is set to flow matching"),
        ("UniPCMultistepScheduler", {"prediction_type": "flow_prediction"}, "is set to flow matching"),
        ("DDIMScheduler", {"prediction_type": "velocity"}, "what its U-Net predicts is 'velocity'"),
        ("EDMEulerScheduler", {"prediction_type": "sample"}, "what its U-Net predicts is 'sample'"),
        ("CMStochasticIterativeScheduler", {}, "what its U-Net predicts is None"),
        ("KarrasVeScheduler", {}, "cannot be loaded|what its U-Net predicts is None"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_scheduler_that_tells_no_noise_levels(copied, family, kind, changes, sentence):
    folder = copied(family)
    edit(folder / "model_index.json", scheduler=["diffusers", kind])
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps({"_class_name": kind} | changes))
    with pytest.raises(SceditError, match=f"base {folder}: .*({sentence})") as error:
        load_base(folder)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_max_length": 154}, "its tokenizer gives 154 tokens, its text encoder reads 77"),
        ({"model_max_length": None}, "its tokenizer gives [0-9]+ tokens, its text encoder reads 77"),
    ],
)
def test_a_tokenizer_that_reads_more_than_the_text_encoder(copied, change, sentence):
    folder = copied("sd15")
    edit(folder / "tokenizer/tokenizer_config.json", **change)
    with pytest.raises(SceditError, match=sentence):
        load_base(folder)


@pytest.mark.parametrize(
    ("files", "dtype", "taken"),
    [
        (["diffusion_pytorch_model.safetensors"], torch.float16, None),
        (["diffusion_pytorch_model.fp16.safetensors"], torch.float32, "fp16"),
        (["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors"], torch.float16, "fp16"),
        (["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors"], torch.float32, None),
        (["model.fp16-00001-of-00002.safetensors", "model-00001-of-00002.safetensors"], torch.float32, None),
        (["model.fp16.safetensors", "model.non_ema.safetensors"], torch.float32, "fp16"),
    ],
)
def test_which_variant_of_a_part_is_read(files, dtype, taken):
    assert variant_of(files, dtype) == taken


def test_each_part_is_read_in_the_precision_that_it_comes_in(copied):
    """Only the U-Net has a variant."""
    folder = copied("sd15")
    file = weights_file(folder, "unet")
    half = {name: value.half() for name, value in load_file(file).items()}
    file.unlink()
    save_file(half, folder / "unet/diffusion_pytorch_model.fp16.safetensors", {"format": "pt"})
    base = load_base(folder)
    assert base.dtype == torch.float32
    assert torch.equal(base.unet.conv_in.weight, half["conv_in.weight"].float())
