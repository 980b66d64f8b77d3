"""Single files of many kinds: each is read as what it is, whole, or told as what it is."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from scedit_cli.benchmark.architecture import architecture
from scedit_cli.inference.sampler import sample
from scedit_cli.models.base import load_base
from scedit_cli.utils.errors import SceditError
from tests import tiny
from tests.original_layout import save_original_autoencoder, single_files, unet_weights

checkpoint = pytest.fixture(single_files)
UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, XL, OPEN = "cond_stage_model.transformer.", "conditioner.embedders.", "cond_stage_model.model."
MEAN, STD = torch.tensor([-1.7, 1.9, -1.4, 2.5]).view(1, 4, 1, 1), torch.full((1, 4, 1, 1), 5.0)
STATISTICS = {"edm_mean": MEAN, "edm_std": STD}


def add(file, more, **metadata):
    save_file(load_file(file) | more, file, metadata or None)
    return file


def put_unet(file, unet: UNet2DConditionModel) -> None:
    others = {key: value for key, value in load_file(file).items() if not key.startswith(UNET)}
    save_file(others | {key: value.contiguous() for key, value in unet_weights(unet.state_dict()).items()}, file)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("sd15", f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k_ip.weight"),
        ("sd21", f"{UNET}input_blocks.40.0.in_layers.0.weight"),
        ("sdxl", f"{UNET}label_emb.1.0.weight"),
        ("sd15", f"{UNET}position_net.linears.0.weight"),
        ("sd15", f"{VAE}encoder.down.7.block.0.conv1.weight"),
        ("sd15", f"{VAE}decoder.mid.attn_2.q.weight"),
        ("sd15", f"{CLIP}text_model.encoder.layers.9.mlp.fc1.weight"),
        ("sd21", f"{OPEN}transformer.resblocks.9.ln_1.weight"),
        ("sdxl", f"{XL}1.model.transformer.resblocks.9.ln_1.weight"),
        ("sdxl", f"{XL}0.transformer.text_model.encoder.layers.9.mlp.fc1.weight"),
        ("sdxl", f"{XL}2.other.weight"),
        ("sd21", f"{OPEN}other.weight"),
    ],
)
def test_a_weight_that_has_no_place_is_named(checkpoint, family, name):
    file = add(checkpoint(family), {name: torch.ones(2, 2)})
    with pytest.raises(SceditError, match=f"base {file}: weights have no place in a checkpoint of {family}") as error:
        load_base(file)
    assert name in error.value.message and error.value.hint and error.value.exit_code == 2


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_what_training_leaves_in_a_file_changes_nothing(checkpoint, family):
    ema = {f"model_ema.diffusion_model{number}": torch.ones(2) for number in range(120)}
    clip, big = (f"{XL}0.", f"{XL}1.model.") if family == "sdxl" else ("cond_stage_model.", OPEN)
    more = {
        "model_ema.decay": torch.ones(()), "alphas_cumprod": torch.ones(9), "betas": torch.ones(9), "denoiser.sigmas":
        torch.ones(9), "global_step": torch.tensor(470000), f"{VAE}loss.logvar": torch.ones(()),
        f"{VAE}loss.discriminator.main.0.weight": torch.ones(2, 2), f"{VAE}model_ema.decay": torch.ones(()),
        "safety_checker.concept_embeds": torch.ones(2, 2), "embedding_manager.x": torch.ones(1),
    } | ema  # fmt: skip
    if family != "sd21":
        more |= {f"{clip}transformer.text_model.embeddings.position_ids": torch.arange(77)[None].float()}
        more |= {f"{clip}logit_scale": torch.ones(()), f"{clip}transformer.text_projection.weight": torch.ones(16, 16)}
    if family != "sd15":
        more |= {f"{big}logit_scale": torch.ones(()), f"{big}attn_mask": torch.ones(77, 77)}
    if family == "sd21":
        more |= {f"{big}text_projection": torch.eye(16), f"{big}transformer.resblocks.23.ln_1.weight": torch.ones(16)}
    base, plain = map(tiny.aligned, (load_base(add(checkpoint(family), more)), load_base(tiny.pipeline_folder(family))))
    assert base.fingerprint == plain.fingerprint and base.prediction_type == plain.prediction_type
    text, expected = base.encode_prompts(["a cone"]), plain.encode_prompts(["a cone"])
    assert all(torch.equal(text[name], values) for name, values in expected.items())


OTHERS = {
    "unclip": ("sd21", {f"{UNET}label_emb.0.0.weight": torch.ones(32, 64)}, "U-Net takes class_labels beside texts"),
    "unclip whole": ("sd21", {f"{UNET}label_emb.0.0.weight": torch.ones(32, 64), "noise_augmentor.data_mean":
                              torch.ones(1)}, "a checkpoint of unCLIP"),
    "upscaler": ("sd21", {f"{UNET}label_emb.weight": torch.ones(9, 32), "low_scale_model.betas": torch.ones(9)},
                 "an upscaler"),
    "classes": ("sd15", {f"{UNET}label_emb.0.weight": torch.ones(9, 32)}, "U-Net takes class_labels beside texts"),
    "depth": ("sd21", {"depth_model.model.blocks.weight": torch.ones(1)}, "a depth-to-image checkpoint"),
    "controlnet": ("sd15", {"control_model.input_blocks.0.0.weight": torch.ones(1)}, "with a ControlNet in it"),
    "lora": ("sd15", {"lora_unet_mid_block.lora_down.weight": torch.ones(1)}, "with a LoRA in it"),
    "lora inside": ("sd15", {f"{UNET}middle_block.1.proj_in.lora_up.weight": torch.ones(1)}, "with a LoRA in it"),
    "lcm": ("sd15", {f"{UNET}time_embed.cond_proj.weight": torch.ones(32, 16)}, "a latent consistency model"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_a_file_that_needs_more_than_its_family_is_told_as_what_it_is(checkpoint, case):
    family, more, sentence = OTHERS[case]
    file = add(checkpoint(family), more)
    with pytest.raises(SceditError, match=f"base {file}: .*{sentence}") as error:
        load_base(file)
    assert error.value.hint and error.value.exit_code == 2


@pytest.mark.parametrize(("family", "channels"), [("sd21", 5), ("sd21", 7), ("sdxl", 8)])
def test_a_file_whose_unet_takes_more_than_latents(checkpoint, family, channels):
    file = checkpoint(family)
    put_unet(file, tiny.unet(family, in_channels=channels))
    told = f"base {file}: its U-Net takes {channels} channels, where latents have 4"
    for load in (load_base, lambda place: architecture(str(place))):  # which reads no weights
        with pytest.raises(SceditError, match=told):
            load(file)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ([f"{UNET}joint_blocks.0.context_block.attn.qkv.weight", "text_encoders.clip_l.x"], "Stable Diffusion 3"),
        (["double_blocks.0.img_attn.qkv.weight"], "of Flux's kind"),
        ([f"{UNET}double_blocks.0.img_attn.qkv.weight"], "of Flux's kind"),
        ([f"{UNET}input_blocks.0.0.weight", f"{XL}0.open_clip.model.positional_embedding"], "Stable Video Diffusion"),
        ([f"{UNET}input_blocks.0.0.weight", f"{XL}0.model.positional_embedding"], "an SDXL refiner"),
        (["lora_unet_down_blocks_0.lora_up.weight"], "a file with a LoRA in it"),
        (["unet.mid_block.attentions.0.to_q.lora_A.weight"], "a file with a LoRA in it"),
        (["control_model.input_blocks.0.0.weight"], "a ControlNet"),
        (["down_blocks.0.resnets.0.conv1.weight"], "a model alone, in the diffusers layout"),
        ([f"{UNET}input_blocks.0.0.weight"], "no whole checkpoint"),
        ([f"{VAE}encoder.conv_in.weight"], "no whole checkpoint"),
    ],
)
def test_a_file_of_another_model_is_told_as_what_it_is(tmp_path, keys, sentence):
    file = tmp_path / "other.safetensors"
    save_file({key: torch.ones(8, 4, 3, 3) for key in keys}, file)
    for load in (load_base, lambda place: architecture(str(place))):
        with pytest.raises(SceditError, match=f"base {file}: .*{sentence}") as error:
            load(file)
        assert "no whole checkpoint of SD1.5, SD2.1 or SDXL" in error.value.message


@pytest.mark.parametrize("said", ["flow", "rectified_flow", "rf"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_file_that_says_flow_is_sampled_by_flow(checkpoint, family, said):
    file = add(checkpoint(family), {}, **{"modelspec.prediction_type": said})
    base, shape = load_base(file), architecture(str(file))
    assert (base.prediction_type, shape.prediction_type) == ("flow", "flow")
    scheduler = base.pipeline().scheduler
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    torch.testing.assert_close(shape.alphas, (1 - scheduler.sigmas.flip(0)).square().float())
    (made,) = sample(base, ["a cone"], seeds=[0], steps=2, width=64, height=64)
    (plain,) = sample(load_base(tiny.pipeline_folder(family)), ["a cone"], seeds=[0], steps=2, width=64, height=64)
    assert made.tobytes() != plain.tobytes()
    with pytest.raises(SceditError, match="scheduler DDIM is for bases trained on a schedule of betas"):
        base.pipeline("DDIM")
    with pytest.raises(SceditError, match="was trained by flow matching, and a prediction of epsilon is not for it"):
        base.rescheduled("epsilon")


def test_playgrounds_file_has_statistics_and_noise_levels(checkpoint):
    base = load_base(add(checkpoint("sdxl"), STATISTICS))
    config = base.scheduler.config
    assert type(base.scheduler).__name__ == "EDMDPMSolverMultistepScheduler"
    assert (config.sigma_data, config.sigma_min, config.sigma_max) == (0.5, 0.002, 80.0)
    assert (base.prediction_type, base.vae.config.scaling_factor) == ("epsilon", 0.5)
    picture = torch.rand(1, 3, 64, 64)
    mean = base.encode_images(picture).chunk(2, dim=1)[0]
    expected = (mean - STATISTICS["edm_mean"]) * 0.5 / 5
    torch.testing.assert_close(base.latents_from(base.encode_images(picture)), expected)
    tiny.train_a_step(base)


def test_cosxls_file_has_noise_levels(checkpoint):
    levels = {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.01)}
    file = add(checkpoint("sdxl"), levels)
    base = load_base(file)
    config = base.scheduler.config
    assert type(base.scheduler).__name__ == "EDMEulerScheduler" and base.prediction_type == "v_prediction"
    assert (config.sigma_data, round(config.sigma_min, 6), config.sigma_max) == (1.0, 0.01, 120.0)
    assert base.vae.config.latents_mean is None
    assert load_base(file, prediction="epsilon").scheduler.config.sigma_max == 120.0
    sample(base, ["a cone"], seeds=[0], steps=2)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"edm_mean": STATISTICS["edm_mean"]}, "it has edm_mean and no edm_std"),
        ({"edm_std": STATISTICS["edm_std"]}, "it has edm_std and no edm_mean"),
        ({"edm_vpred.sigma_max": torch.tensor(120.0)}, "it has edm_vpred.sigma_max and no edm_vpred.sigma_min"),
        ({"edm_vpred.sigma_max": torch.tensor(0.1), "edm_vpred.sigma_min": torch.tensor(0.2)}, "no noise levels"),
        (STATISTICS | {"edm_std": torch.zeros(4)}, "latents_std in its configuration is"),
        (STATISTICS | {"edm_mean": torch.zeros(3)}, "latents_mean in its configuration is"),
    ],
)
def test_noise_levels_and_statistics_that_are_none(checkpoint, more, sentence):
    with pytest.raises(SceditError, match=sentence):
        load_base(add(checkpoint("sdxl"), more))


def test_sd2s_inpainting_file_predicts_noise(checkpoint):
    file = checkpoint("sd21")
    put_unet(file, tiny.unet("sd21", in_channels=9))
    base = load_base(file)
    assert (base.family, base.prediction_type, base.is_guessed) == ("sd21", "epsilon", False)
    assert load_base(file, prediction="v_prediction").prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("metadata", "prediction"),
    [
        ({"modelspec.prediction_type": "v"}, "v_prediction"),
        ({"modelspec.prediction_type": "v_prediction"}, "v_prediction"),
        ({"modelspec.prediction_type": "eps"}, "epsilon"),
        ({"modelspec.predict_key": "epsilon"}, "epsilon"),
        ({"modelspec.predict_key": "v"}, "v_prediction"),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, "epsilon"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction"),
    ],
)
def test_what_a_files_metadata_say_that_it_predicts(checkpoint, metadata, prediction):
    base = load_base(checkpoint("sd21", **metadata))
    assert (base.prediction_type, base.is_guessed) == (prediction, False)


@pytest.mark.parametrize(("family", "start"), [("sd15", CLIP), ("sdxl", f"{XL}0.transformer.")])
def test_early_files_name_the_text_encoder_without_text_model(checkpoint, family, start):
    file = checkpoint(family)
    weights = {key.replace(f"{start}text_model.", start): value for key, value in load_file(file).items()}
    weights[f"{start}embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, file)
    base, plain = load_base(file, dtype=torch.bfloat16), load_base(tiny.pipeline_folder(family), dtype=torch.bfloat16)
    text, expected = base.encode_prompts(["a cone"]), plain.encode_prompts(["a cone"])
    assert all(torch.equal(text[name], values) for name, values in expected.items())
    save_file({key: value for key, value in weights.items() if key != f"{start}final_layer_norm.weight"}, file)
    with pytest.raises(SceditError, match=f"a checkpoint of {family} should be: .*Missing key.*final_layer_norm"):
        load_base(file)


def test_a_files_title_may_tell_that_it_was_distilled(checkpoint):
    base = load_base(checkpoint("sdxl", **{"modelspec.title": "DreamShaper XL Turbo v2"}))
    assert not base.is_distilled and base.distillation_doubt.endswith(
        'has "turbo" in its name, and is sampled as an ordinary base'
    )


def test_an_autoencoders_file_with_more_than_one(checkpoint, tmp_path):
    file = tmp_path / "vae.safetensors"
    save_original_autoencoder(tiny.vae(), file)
    leftovers = {"loss.logvar": torch.ones(()), "model_ema.decay": torch.ones(())}
    assert load_base(tiny.pipeline_folder("sd15"), vae=add(file, leftovers)).vae_name == str(file)
    with pytest.raises(SceditError, match=f"autoencoder {file}: weights have no place in .*: encoder.other.weight"):
        load_base(tiny.pipeline_folder("sd15"), vae=add(file, {"encoder.other.weight": torch.ones(2, 2)}))
