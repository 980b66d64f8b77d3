from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from scedit_cli.models import single_file
from scedit_cli.models.base import load_base
from scedit_cli.utils.errors import SceditError
from tests import tiny
from tests.original_layout import save_configs, single_files, unet_weights

checkpoint = pytest.fixture(single_files)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_single_file_is_the_pipeline_that_was_written(checkpoint, family, capfd):
    file = checkpoint(family)
    capfd.readouterr()
    base, expected = load_base(file), load_base(tiny.pipeline_folder(family))
    assert capfd.readouterr() == ("", "")
    assert (base.name, base.family, base.prediction_type) == (str(file), family, expected.prediction_type)
    assert base.fingerprint == expected.fingerprint and base.defaults == expected.defaults
    parts, others = base.pipeline().components, expected.pipeline().components
    assert parts.keys() == others.keys()
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            weights = part.state_dict()
            assert weights.keys() == others[name].state_dict().keys()
            assert all(torch.equal(weight, others[name].state_dict()[key]) for key, weight in weights.items()), name
    text, other_text = base.encode_prompts(["a cone"]), expected.encode_prompts(["a cone"])
    assert all(torch.equal(text[key], other_text[key]) for key in other_text)


def test_half_precision_keeps_the_autoencoder_in_float32(checkpoint):
    base = load_base(checkpoint("sd15"), dtype=torch.bfloat16)
    assert (base.dtype, base.vae.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(base.vae.decoder.conv_in.weight, tiny.pipeline("sd15").vae.decoder.conv_in.weight)


def test_a_file_may_say_what_it_predicts(checkpoint):
    base = load_base(checkpoint("sd21", **{"modelspec.prediction_type": "epsilon"}))
    assert (base.prediction_type, base.is_guessed) == ("epsilon", False)


def test_a_file_of_sd21_that_does_not_tell_which_it_is(checkpoint, tmp_path):
    base = load_base(checkpoint("sd21"))
    assert (base.prediction_type, base.is_guessed) == ("v_prediction", True)
    assert base.doubt.startswith(f"{base.name} does not say which SD2.1 it is")
    assert not load_base(tmp_path / "sd21.safetensors", prediction="v_prediction").is_guessed
    assert not load_base(tiny.pipeline_folder("sd21")).is_guessed


def test_a_file_may_mark_what_it_predicts_by_empty_tensors(checkpoint):
    file = checkpoint("sdxl")
    save_file(load_file(file) | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, file)
    base = load_base(file)
    assert base.prediction_type == "v_prediction" and base.scheduler.config.rescale_betas_zero_snr
    assert load_base(file, prediction="epsilon").prediction_type == "epsilon"


def test_an_inpainting_file(checkpoint):
    assert load_base(checkpoint("inpaint")).unet.config.in_channels == 9


def test_a_pruned_file_is_read_with_the_whole_ones_configuration(checkpoint, tmp_path):
    """SSD-1B and Vega: no mid block, and attention of unlike depths; the configuration shipped is SDXL's."""
    file = checkpoint("ssd1b")
    shutil.rmtree(tmp_path / "configs")
    save_configs(tiny.pipeline("sdxl"), "sdxl", tmp_path / "configs")
    base, expected = load_base(file), load_base(tiny.pipeline_folder("ssd1b"))
    assert base.unet.mid_block is None
    weights, others = base.unet.state_dict(), expected.unet.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weight, others[key]) for key, weight in weights.items())


def test_a_whole_unet_is_not_taken_for_a_pruned_one():
    for family in tiny.FAMILIES:
        config = json.loads((single_file.CONFIGS / family / "unet.json").read_text())
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(config)
        keys = {key: value for key, value in unet_weights(unet.state_dict()).items()}
        assert single_file._pruning(set(keys), config) == {}


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("model.diffusion_model.", "no whole checkpoint"),
        ("cond_stage_model.", "no whole checkpoint"),
        ("model.diffusion_model.out.2.weight", "weights that a checkpoint of sd15 has are missing"),
        ("first_stage_model.decoder", "weights that a checkpoint of sd15 has are missing"),
        ("first_stage_model.", "not as a checkpoint of sd15 should be: .*AutoencoderKL"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "weights of its text_encoder are missing"),
    ],
)
def test_a_file_that_lacks_weights(checkpoint, lost, message):
    file = checkpoint("sd15")
    save_file({key: value for key, value in load_file(file).items() if not key.startswith(lost)}, file)
    with pytest.raises(SceditError, match=message) as error:
        load_base(file)
    assert str(file) in error.value.message and error.value.hint and error.value.exit_code == 2


def test_other_files_are_refused(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"pickle")
    with pytest.raises(SceditError, match="only .safetensors files are read"):
        load_base(tmp_path / "model.ckpt")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(SceditError, match="a damaged file"):
        load_base(tmp_path / "torn.safetensors")
    with pytest.raises(SceditError, match="it has no revision main"):
        load_base(tmp_path / "torn.safetensors", revision="main")


def test_the_tokenizer_is_clips():
    tokenizer = single_file.tokenizer()
    assert len(tokenizer) == 49408
    # As CLIP's own tokenizer encodes them.
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("Hello, World!").input_ids == [49406, 3306, 267, 1002, 256, 49407]
    padded = single_file.tokenizer(pad="!")("a", padding="max_length").input_ids
    assert len(padded) == 77 and padded[-1] == 0


UNET = {"sd15": 859_520_964, "sd21": 865_910_724, "sdxl": 2_567_463_684}
TEXT = {"sd15": 123_060_480, "sd21": 340_387_840, "sdxl": 123_060_480 + 694_659_840}
VAE = 83_653_863


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_shipped_configurations_are_full_size(family):
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    classes = {"CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection}
    total = 0
    with torch.device("meta"):
        for file in (single_file.CONFIGS / family).glob("*.json"):
            config = json.loads(file.read_text())
            if file.stem == "unet":
                module = UNet2DConditionModel.from_config(config)
            elif file.stem == "vae":
                module = AutoencoderKL.from_config(config)
            elif file.stem.startswith("text_encoder"):
                module = classes[config["architectures"][0]](CLIPTextConfig(**config))
            else:
                continue
            total += sum(weight.numel() for weight in module.parameters())
    assert total == UNET[family] + TEXT[family] + VAE
