from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file

from scedit_cli.models import loading
from scedit_cli.models.base import Defaults, load_base
from scedit_cli.utils.errors import SceditError, WorkFailed
from tests import tiny


@pytest.fixture(params=tiny.FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture
def base(family):
    return load_base(tiny.pipeline_folder(family))


@pytest.fixture
def broken(tmp_path):
    """A copy of a pipeline's folder to break."""
    return shutil.copytree(tiny.pipeline_folder("sd15"), tmp_path / "broken")


def test_a_folder_of_each_family(base, family):
    assert (base.family, base.name) == (family, str(tiny.pipeline_folder(family)))
    assert base.prediction_type == ("v_prediction" if family == "sd21" else "epsilon")
    assert base.defaults.resolution == 64
    assert base.multiple == (32 if family == "sdxl" else 64)
    assert len(base.skips.channels) == (9 if family == "sdxl" else 12)


def test_everything_is_frozen_and_the_autoencoder_stays_float32(family):
    base = load_base(tiny.pipeline_folder(family), dtype=torch.bfloat16)
    modules = [part for part in base.pipeline().components.values() if isinstance(part, torch.nn.Module)]
    assert len(modules) == (4 if family == "sdxl" else 3)
    assert not any(weight.requires_grad for module in modules for weight in module.parameters())
    assert not any(part.training for module in modules for part in module.modules())
    assert {module.dtype for module in modules if module is not base.vae} == {torch.bfloat16} == {base.dtype}
    assert base.vae.dtype == torch.float32
    assert getattr(base.pipeline(), "safety_checker", None) is None


def test_a_fingerprint_belongs_to_the_weights_and_not_to_their_precision(family, base):
    folder = tiny.pipeline_folder(family)
    precisions = {load_base(folder, dtype=dtype).fingerprint for dtype in (torch.float16, torch.bfloat16)}
    assert precisions == {base.fingerprint}
    assert len(bytes.fromhex(base.fingerprint)) == 16
    assert load_base(tiny.pipeline_folder(family, seed=1)).fingerprint != base.fingerprint


def test_one_changed_weight_changes_the_fingerprint():
    base, other = (load_base(tiny.pipeline_folder("sd15")) for _ in range(2))
    other.unet.conv_in.weight.data.neg_()
    assert other.fingerprint != base.fingerprint


def test_prompts_are_encoded_as_the_pipeline_does(base, family):
    prompts = ["a red sphere", ""]
    text = base.encode_prompts(prompts)
    expected = tiny.pipeline(family).encode_prompt(
        prompt=prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert torch.equal(text["encoder_hidden_states"], expected[0])
    assert set(text) == {"encoder_hidden_states"} | ({"text_embeds"} if family == "sdxl" else set())
    assert base.text_layout == {name: (values.dtype, tuple(values.shape[1:])) for name, values in text.items()}
    if family == "sdxl":
        assert torch.equal(text["text_embeds"], expected[2])
        added = base.unet_arguments(text, height=64, width=96)["added_cond_kwargs"]
        assert added["time_ids"].tolist() == [[64, 96, 0, 0, 64, 96]] * 2
    with torch.no_grad():
        noise = base.unet(torch.zeros(2, 4, 8, 8), 500, **base.unet_arguments(text, 64, 64)).sample
    assert noise.isfinite().all() and not torch.equal(noise[0], noise[1])


def test_prompts_that_are_too_long_are_found(base):
    assert base.overlong(["short", "x " * 76, "x " * 75]) == ["x " * 76]


def test_latents_are_shifted_and_scaled_and_decoded_back():
    base = load_base(tiny.pipeline_folder("sd15"))
    base.vae.register_to_config(shift_factor=0.25, scaling_factor=2.0)
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    moments = base.encode_images(pictures)
    mean, log_variance = moments.chunk(2, dim=1)
    assert moments.shape == (2, 8, 8, 8) and moments.dtype == torch.float32
    assert torch.equal(base.latents_from(moments), (mean - 0.25) * 2)

    drawn = base.latents_from(moments, torch.Generator().manual_seed(5))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(drawn, (mean + (log_variance / 2).exp() * noise - 0.25) * 2, atol=1e-5)

    with torch.no_grad():
        expected = (base.vae.decode(mean).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(base.decode(base.latents_from(moments)), expected, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_no_numbers_are_told(value):
    base = load_base(tiny.pipeline_folder("sd15"))
    with pytest.raises(WorkFailed, match="latents hold values that are not numbers") as error:
        base.decode(torch.full((1, 4, 8, 8), value))
    assert error.value.exit_code == 1


def test_a_pipeline_has_a_scheduler_of_its_own(base):
    one, two = base.pipeline(), base.pipeline("EulerDiscrete")
    assert isinstance(one.scheduler, type(base.scheduler)) and one.scheduler is not base.scheduler
    assert type(two.scheduler).__name__ == "EulerDiscreteScheduler"
    assert two.scheduler.config.prediction_type == base.prediction_type
    assert one.unet is base.unet is two.unet
    with pytest.raises(SceditError, match="scheduler 'Oiler': not known") as error:
        base.pipeline("Oiler")
    assert "DDIM, " in error.value.hint


def test_weights_in_half_precision_files_only(tmp_path):
    pipeline = tiny.pipeline("sd15").to(torch.float16)
    pipeline.save_pretrained(tmp_path, variant="fp16")
    base = load_base(tmp_path)
    assert base.dtype == torch.float32
    assert torch.equal(base.unet.conv_in.weight, pipeline.unet.conv_in.weight.float())


def test_loading_says_nothing_and_leaves_the_loggers_alone(capfd, family):
    tiny.pipeline_folder(family)
    capfd.readouterr()
    before = diffusers_logging.get_verbosity(), diffusers_logging.is_progress_bar_enabled()
    base = load_base(tiny.pipeline_folder(family))
    base.encode_prompts(["x " * 200])
    assert capfd.readouterr() == ("", "")
    assert (diffusers_logging.get_verbosity(), diffusers_logging.is_progress_bar_enabled()) == before


def _index(folder, **parts) -> None:
    index = json.loads((folder / "model_index.json").read_text()) | parts
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "no diffusers pipeline"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "model_index.json is damaged"),
        (lambda folder: (folder / "model_index.json").write_text("[]"), "model_index.json is damaged"),
        (
            lambda folder: _index(
                folder, _class_name="FluxPipeline", unet=None, transformer=["diffusers", "FluxTransformer2DModel"]
            ),
            "a FluxPipeline with a FluxTransformer2DModel, which has no U-Net skips",
        ),
        (lambda folder: _index(folder, unet=["diffusers", "UNet2DModel"]), "UNet2DModel, which has no U-Net skips"),
        (lambda folder: _index(folder, vae=[None, None]), "a StableDiffusionPipeline without vae"),
        (
            lambda folder: _index(folder, unet=["remote", "UNet2DConditionModel"]),
            r"its unet comes with code of its own \(remote\), which is never run",
        ),
        (
            lambda folder: next((folder / "unet").glob("*.safetensors")).rename(
                folder / "unet" / "diffusion_pytorch_model.bin"
            ),
            "cannot be loaded",
        ),
        (
            lambda folder: next((folder / "unet").glob("*.safetensors")).write_bytes(b"torn"),
            "cannot be loaded",
        ),
        (
            lambda folder: next((folder / "text_encoder").glob("*.safetensors")).write_bytes(b"torn"),
            "cannot be loaded",
        ),
        (lambda folder: shutil.rmtree(folder / "vae"), "cannot be loaded"),
    ],
)
def test_a_folder_that_is_no_whole_pipeline(broken, damage, message):
    damage(broken)
    with pytest.raises(SceditError, match=message) as error:
        load_base(broken)
    assert str(broken) in error.value.message and error.value.hint and error.value.exit_code == 2


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_folder_that_lacks_a_weight(broken, part):
    file = next((broken / part).glob("*.safetensors"))
    weights = load_file(file)
    weights.pop(sorted(weights)[-1])
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(SceditError, match=f"base {broken}: weights of its {part} are missing"):
        load_base(broken)


@pytest.mark.parametrize("name", ["nowhere", "./models/sd15", "a/b/c", "weights.safetensors"])
def test_a_path_that_is_missing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SceditError, match=f"base {name}: no such folder"):
        load_base(name)


def test_the_embedded_base_is_sampled_its_own_way(monkeypatch):
    monkeypatch.setattr(loading, "_EMBEDDED_FOLDER", tiny.pipeline_folder("sd21"))
    base = load_base()
    assert (base.name, base.family) == ("scenes", "scenes") and base.defaults == Defaults(64, 20, 2.0)


@pytest.mark.parametrize(("dtype", "offered", "taken"), [
    (torch.float32, ("", ".fp16"), None),
    (torch.bfloat16, ("", ".fp16"), None),
    (torch.float16, ("", ".fp16"), "fp16"),
    (torch.float32, (".fp16",), "fp16"),
    (torch.float16, ("",), "fp16"),  # the autoencoder's, which comes in nothing else
])  # fmt: skip
def test_half_precision_files_are_downloaded_where_no_more_is_asked_for(dtype, offered, taken):
    files = [f"unet/diffusion_pytorch_model{variant}.safetensors" for variant in offered]
    assert loading.best_variant([*files, "vae/diffusion_pytorch_model.fp16.safetensors"], dtype) == taken


def test_both_precisions_in_one_folder(tmp_path):
    pipeline = tiny.pipeline("sd15")
    pipeline.save_pretrained(tmp_path)
    pipeline.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    full, half = load_base(tmp_path), load_base(tmp_path, dtype=torch.float16)
    assert torch.equal(full.unet.conv_in.weight, tiny.pipeline("sd15").unet.conv_in.weight)
    assert torch.equal(half.unet.conv_in.weight, pipeline.unet.conv_in.weight)
    assert full.fingerprint == half.fingerprint


def test_what_a_unet_predicts_may_be_told():
    folder = tiny.pipeline_folder("sd21")
    base = load_base(folder, prediction="epsilon")
    assert base.prediction_type == base.pipeline().scheduler.config.prediction_type == "epsilon"
    with pytest.raises(SceditError, match="prediction type 'eps': not known"):
        load_base(folder, prediction="eps")


def test_a_pruned_unet_without_a_mid_block():
    base = load_base(tiny.pipeline_folder("ssd1b"))
    assert base.unet.mid_block is None and base.family == "sdxl"
    assert base.skips == load_base(tiny.pipeline_folder("sdxl")).skips
    tiny.train_a_step(base)


def test_a_distillate_is_sampled_in_few_steps_and_told_its_guidance():
    base = load_base(tiny.pipeline_folder("lcm"))
    assert (base.is_distilled, base.defaults.steps, base.defaults.guidance) == (True, 4, 8.0)
    arguments = base.unet_arguments(base.encode_prompts(["a cone"] * 2), 64, 64)
    expected = base.pipeline().get_guidance_scale_embedding(torch.full((2,), 7.0), embedding_dim=16)
    assert torch.equal(arguments["timestep_cond"], expected)
    tiny.train_a_step(base)


@pytest.mark.parametrize(
    ("folder", "origin", "scheduler", "distilled"),
    [
        ("m", None, {"timestep_spacing": "trailing"}, False),
        ("sdxl-turbo", None, {"timestep_spacing": "trailing"}, True),
        ("sdxl-turbo", None, {"timestep_spacing": "leading"}, False),
        ("dreamshaperXL_v21TurboDPMSDE", None, {"timestep_spacing": "trailing"}, True),
        ("models--ByteDance--SDXL-Lightning/snapshots/0a1b", None, {"timestep_spacing": "trailing"}, True),
        ("m", "stabilityai/sdxl-turbo", {"timestep_spacing": "trailing"}, True),
        ("turbo/m", None, {"timestep_spacing": "trailing"}, False),
        ("hyper-realism", None, {"timestep_spacing": "trailing"}, False),
        ("Hyper-SDXL-1step", None, {"timestep_spacing": "trailing"}, True),
        ("sdxl-turbo", None, {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}, False),
        ("m", None, {"_class_name": "LCMScheduler"}, True),
        ("m", None, {"_class_name": "TCDScheduler"}, True),
        ("m", None, {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}, False),
    ],
)
def test_what_tells_a_distilled_base(tmp_path, folder, origin, scheduler, distilled):
    place = shutil.copytree(tiny.pipeline_folder("sdxl"), tmp_path / folder)
    if origin:
        _index(place, _name_or_path=origin)
    if kind := scheduler.get("_class_name"):
        _index(place, scheduler=["diffusers", kind])
    file = place / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | scheduler))
    base = load_base(place)
    assert base.is_distilled is distilled
    assert (base.defaults.steps, base.defaults.guidance) == ((4, 1.0) if distilled else (30, 5.0))
    assert (base.distillation_doubt is None) is distilled
    assert load_base(tiny.pipeline_folder("sdxl")).distillation_doubt is None


def test_sdxl_is_told_where_pictures_were_cut():
    base = load_base(tiny.pipeline_folder("sdxl"))
    sizes = torch.tensor([[480, 640, 0, 16, 64, 64], [100, 90, 4, 0, 64, 64]])
    added = base.unet_arguments(base.encode_prompts(["a", "b"]), 64, 64, sizes)["added_cond_kwargs"]
    assert torch.equal(added["time_ids"], sizes.float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_autoencoder_that_overflows_in_half_precision_makes_whole_pictures(dtype):
    """As SDXL's does: its activations are beyond what float16 holds."""
    base = load_base(tiny.pipeline_folder("sdxl"), dtype=dtype)
    with torch.no_grad():
        base.vae.decoder.conv_in.weight.mul_(1e6)
        base.vae.decoder.conv_in.bias.mul_(1e6)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert base.decode(latents).std() > 0
    assert base.encode_images(torch.rand(1, 3, 64, 64)).dtype == torch.float32
    assert base.vae.half().decode(latents.half()).sample.isnan().any()


def test_an_installation_without_its_world(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_EMBEDDED_FOLDER", tmp_path / "gone")
    with pytest.raises(WorkFailed, match="the embedded base is missing"):
        load_base("scenes")


def test_it_is_where_its_unet_is():
    """Training moves the other models out of an accelerator's way."""
    base = load_base(tiny.pipeline_folder("sdxl"), device="cpu")
    for part in (base.vae, base.pipeline().text_encoder, base.pipeline().text_encoder_2):
        part.to("meta")
    assert base.device == torch.device("cpu")
