from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from scedit_cli import SceditError, original
from scedit_cli.benchmark.architecture import PUBLIC, architecture
from scedit_cli.benchmark.estimate import count, estimate, peak
from scedit_cli.benchmark.measure import measure, options_for
from scedit_cli.benchmark.methods import Options, prepared
from scedit_cli.benchmark.setting import Setting
from tests import tiny
from tests.original_layout import save_configs, save_original

MIB = 2**20
GOLDEN = os.environ.get("SCEDIT_GOLDEN")
# Methods, their names in parameters.json (on SDXL hint encoders are as in the authors' recipes), and in flops.json.
KNOWN = {
    "sc": ("sc_1.0", "sc_1.0", "step_sc_1.0"),
    "csc": ("csc_k1_256_1.0", "csc_k1_320_2.0", "step_csc_k1"),
    "csc-k3": ("csc_k3_256_1.0", "csc_k3_320_2.0", "step_csc_k3"),
    "lora": ("lora_attn_r64", "lora_attn_r64", "step_lora_attn_r64"),
    "full": ("unet", "unet", "step_full"),
    "controlnet": ("controlnet", "controlnet", "step_controlnet"),
}
OTHERS = {
    "t2i-adapter": ("t2i_full_adapter", "t2i_full_adapter_xl"),
    "controlnet-xs": ("controlnet_xs_size_ratio_0.1", "controlnet_xs_size_ratio_0.1"),
}


@pytest.mark.skipif(not GOLDEN, reason="SCEDIT_GOLDEN names the golden numbers")
@pytest.mark.parametrize(("base", "method"), [("sd15", "csc"), ("sd21", "controlnet"), ("sdxl", "csc"), ("sd15", "sc")])
def test_parameters_and_operations_are_the_golden_ones(base, method):
    parameters, flops = (json.loads((Path(GOLDEN) / f"{name}.json").read_text()) for name in ("parameters", "flops"))
    *names, step = KNOWN[method]
    shape = architecture(base)
    work = count(method, shape, 1, shape.resolution, options_for(Setting(base), shape))
    assert work.trainable_parameters == parameters[base][names[base == "sdxl"]]
    assert work.base_parameters == parameters[base]["unet"]
    assert work.controlnet_parameters == parameters[base]["controlnet"]
    assert work.flops == pytest.approx(flops[base][step], rel=0.005)


@pytest.mark.skipif(not GOLDEN, reason="SCEDIT_GOLDEN names the golden numbers")
@pytest.mark.parametrize("base", PUBLIC)
def test_every_methods_parameters_are_the_golden_ones(base):
    parameters = json.loads((Path(GOLDEN) / "parameters.json").read_text())[base]
    shape = architecture(base)
    options = options_for(Setting(base), shape)
    for method, names in (KNOWN | OTHERS).items():
        with prepared(method, shape.on_meta(), options) as trainee:
            assert trainee.count == parameters[names[base == "sdxl"]], method
    options = options_for(Setting(base, lora_feed_forward=True), shape)
    with prepared("lora", shape.on_meta(), options) as trainee:
        assert trainee.count == parameters["lora_attn_ff_r64"]


@pytest.mark.parametrize(("method", "mib"), [("sc-plain", 4019), ("full", 15115), ("controlnet", 10082)])
def test_predicted_memory_of_sd15_at_batch_4(method, mib):
    figures = peak(method, architecture("sd15"), 4, 512, "bf16")
    assert sum(figures.values()) == pytest.approx(mib * MIB, rel=0.08)


def test_memory_is_told_by_category():
    base = architecture(str(tiny.pipeline_folder("sd15")))
    figures = estimate("full", base, 2, dtype="fp32", device="cpu", libraries=7 * MIB)
    weights = 4 * tiny.unet("sd15").num_parameters()
    assert figures.memory["weights"] == weights
    assert 2 * weights <= figures.memory["optimizer"] < 2.01 * weights
    assert figures.memory["libraries"] == 7 * MIB
    assert sum(figures.memory.values()) == figures.peak_memory == figures.estimated_peak_memory
    assert figures.images_per_second is None


def test_twice_the_batch_is_twice_the_work_and_the_activations():
    base = architecture(str(tiny.pipeline_folder("sd15")))
    one, two = (peak("sc-plain", base, batch, 64, "fp32")["activations"] for batch in (4, 8))
    assert two == pytest.approx(2 * one, rel=0.1)
    one, two = (count("sc-plain", base, batch, 64).flops for batch in (4, 8))
    assert two == 2 * one


def test_cards_lift_what_a_cpu_leaves():
    base = architecture(str(tiny.pipeline_folder("sd15")))
    cpu, card = (sum(peak("full", base, 2, 64, "bf16", device=device).values()) for device in ("cpu", "cuda"))
    assert cpu < card
    cpu, card = (sum(peak("full", base, 2, 64, "fp32", device=device).values()) for device in ("cpu", "cuda"))
    assert cpu == card


def test_nothing_is_computed_and_the_random_state_stays():
    before = torch.get_rng_state()
    estimate("lora", "sd15", 1, 64, options=Options(lora_rank=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", ["sc", "controlnet"])
def test_a_real_steps_resident_memory_is_predicted(method):
    measured = measure(method, Setting("scenes"), 1, lambda *_: None).figures
    assert measured.estimated_peak_memory == pytest.approx(measured.peak_memory, rel=0.12)


def test_a_single_file_is_measured(tmp_path, monkeypatch):
    pipeline = tiny.pipeline("sd15")
    save_configs(pipeline, "sd15", tmp_path / "configs")
    save_original(pipeline, "sd15", tmp_path / "mine.safetensors")
    monkeypatch.setattr(original, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(original, "tokenizer", lambda pad="": tiny.tokenizer())
    found = measure("sc", Setting(str(tmp_path / "mine.safetensors"), batch=1), 1, lambda *_: None)
    assert found.setting.resolution == 64 and found.figures.images_per_second > 0
    weights = tiny.unet("sd15").num_parameters() + found.figures.trainable_parameters
    assert found.figures.memory["weights"] == 4 * weights


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_folders_configuration_says_it_all(family):
    shape = architecture(str(tiny.pipeline_folder(family)))
    unet = tiny.unet(family)
    assert shape.on_meta().num_parameters() == unet.num_parameters()
    assert shape.resolution == 64 and shape.pooled == (tiny.SECOND_WIDTH if family == "sdxl" else 0)
    assert shape.prediction_type == tiny.scheduler(family).config.prediction_type
    torch.testing.assert_close(shape.alphas, tiny.scheduler(family).alphas_cumprod)


def test_a_damaged_configuration_is_told(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{")
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(SceditError, match="its configuration cannot be read"):
        architecture(str(tmp_path))
    (tmp_path / "unet" / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}')
    with pytest.raises(SceditError, match="FluxTransformer2DModel, which has no U-Net skips"):
        architecture(str(tmp_path))
