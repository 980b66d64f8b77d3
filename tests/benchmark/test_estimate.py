from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scedit_cli import SceditError, SCTuner
from scedit_cli.benchmark.architecture import PUBLIC, architecture
from scedit_cli.benchmark.config import BenchConfig
from scedit_cli.benchmark.estimate import count, estimate, peak, rehearsed
from scedit_cli.benchmark.isolation import measure_apart
from scedit_cli.benchmark.measure import measure, options_for
from scedit_cli.benchmark.methods import METHODS, Options, prepared
from scedit_cli.benchmark.step import loss_of, random_batch
from scedit_cli.models import single_file
from scedit_cli.utils import hub
from scedit_cli.utils.reporter import SILENT
from tests import tiny
from tests.core import skip_models
from tests.original_layout import save_configs, save_original

SMALL = Options(hint_channels=8, hint_width=0.25)
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
@pytest.mark.parametrize("method", KNOWN)
@pytest.mark.parametrize("base", PUBLIC)
def test_parameters_and_operations_are_the_golden_ones(base, method):
    parameters, flops = (json.loads((Path(GOLDEN) / f"{name}.json").read_text()) for name in ("parameters", "flops"))
    *names, step = KNOWN[method]
    shape = architecture(base)
    work = count(method, shape, 1, shape.resolution, options_for(BenchConfig(base), shape))
    assert work.trainable_parameters == parameters[base][names[base == "sdxl"]]
    assert work.base_parameters == parameters[base]["unet"]
    assert work.controlnet_parameters == parameters[base]["controlnet"]
    assert work.flops == pytest.approx(flops[base][step], rel=0.005)


@pytest.mark.skipif(not GOLDEN, reason="SCEDIT_GOLDEN names the golden numbers")
@pytest.mark.parametrize(
    ("method", "size", "step"),
    [
        ("sc", {"down_ratio": 0.5}, "sc_0.5"),
        ("sc", {"down_ratio": 0.1}, "sc_0.1"),
        ("lora", {"lora_rank": 4}, "lora_attn_r4"),
        ("lora", {"lora_feed_forward": True}, "lora_attn_ff_r64"),
    ],
)
def test_operations_of_other_sizes_are_the_golden_ones(method, size, step):
    flops = json.loads((Path(GOLDEN) / "flops.json").read_text())["sd15"]
    shape = architecture("sd15")
    found = count(method, shape, 1, 512, options_for(BenchConfig("sd15", **size), shape)).flops
    assert found == pytest.approx(flops[f"step_{step}"], rel=0.005)


@pytest.mark.skipif(not GOLDEN, reason="SCEDIT_GOLDEN names the golden numbers")
@pytest.mark.parametrize("base", PUBLIC)
def test_every_methods_parameters_are_the_golden_ones(base):
    parameters = json.loads((Path(GOLDEN) / "parameters.json").read_text())[base]
    shape = architecture(base)
    options = options_for(BenchConfig(base), shape)
    for method, names in (KNOWN | OTHERS).items():
        with prepared(method, shape.on_meta(), options) as trainable:
            assert trainable.count == parameters[names[base == "sdxl"]], method
    options = options_for(BenchConfig(base, lora_feed_forward=True), shape)
    with prepared("lora", shape.on_meta(), options) as trainable:
        assert trainable.count == parameters["lora_attn_ff_r64"]


@pytest.mark.parametrize(
    ("method", "batch", "mib"),
    [("sc-plain", 4, 4019), ("sc-plain", 10, 7194), ("full", 4, 15115), ("controlnet", 4, 10082)],
)
def test_predicted_memory_of_sd15(method, batch, mib):
    figures = peak(method, architecture("sd15"), batch, 512, "bf16")
    assert sum(figures.values()) == pytest.approx(mib * MIB, rel=0.08)


@pytest.mark.parametrize(("batch", "mib"), [(4, 5037), (10, 9878)])
def test_loras_memory_is_larger_by_pefts_casts(batch, mib):
    """The figures are without them: peft lifts what goes into an adapter to its float32."""
    more = sum(peak("lora", architecture("sd15"), batch, 512, "bf16").values()) / (mib * MIB)
    assert more == pytest.approx(1.085, abs=0.015)  # 7 to 10 %


def test_memory_is_told_by_category():
    base = architecture(str(tiny.pipeline_folder(tiny.SMALLEST)))
    figures = estimate("full", base, 2, dtype="fp32", device="cpu", libraries=7 * MIB)
    weights = 4 * tiny.unet(tiny.SMALLEST).num_parameters()
    assert figures.memory["weights"] == weights
    assert 2 * weights <= figures.memory["optimizer"] < 2.01 * weights
    assert figures.memory["libraries"] == 7 * MIB
    assert sum(figures.memory.values()) == figures.peak_memory == figures.estimated_peak_memory
    assert figures.images_per_second is None


def test_twice_the_batch_is_twice_the_work_and_the_activations():
    base = architecture(str(tiny.pipeline_folder(tiny.SMALLEST)))
    one, two = (peak("sc-plain", base, batch, 64, "fp32")["activations"] for batch in (4, 8))
    assert two == pytest.approx(2 * one, rel=0.1)
    one, two = (count("sc-plain", base, batch, 64).flops for batch in (4, 8))
    assert two == 2 * one


@pytest.mark.parametrize("method", ["csc-checkpoint", "full"])
def test_steps_of_one_rehearsal_do_not_add_up(method):
    base = architecture(str(tiny.pipeline_folder(tiny.SMALLEST)))
    with rehearsed(method, base, 64, "bf16", options=SMALL) as peak_at:
        several = [peak_at(batch) for batch in (2, 1)]
    assert several == [peak(method, base, batch, 64, "bf16", options=SMALL) for batch in (2, 1)]


@pytest.mark.parametrize("method", ["sc", "lora", "controlnet"])
def test_operations_are_those_of_pytorchs_counter(method):
    base = architecture(str(tiny.pipeline_folder("sdxl")))
    unet = base.on_meta()
    inputs, noise = random_batch(base, 2, 64, torch.float32, "meta")
    with prepared(METHODS[method].plain, unet, SMALL) as trainable, FlopCounterMode(display=False) as counter:
        loss_of(trainable, inputs, noise, base).backward()
    assert count(method, base, 2, 64, SMALL).flops == counter.get_total_flops()


def test_cards_lift_what_a_cpu_leaves():
    base = architecture(str(tiny.pipeline_folder(tiny.SMALLEST)))
    cpu, card = (sum(peak("full", base, 2, 64, "bf16", device=device).values()) for device in ("cpu", "cuda"))
    assert cpu < card
    cpu, card = (sum(peak("full", base, 2, 64, "fp32", device=device).values()) for device in ("cpu", "cuda"))
    assert cpu == card


def test_nothing_is_computed_and_the_random_state_stays():
    before = torch.get_rng_state()
    estimate("lora", "sd15", 1, 64, options=Options(lora_rank=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from Linux's /proc")
def test_a_real_steps_resident_memory_is_predicted(tmp_path, monkeypatch):
    """To 8 % on one thread, where each large tensor has pages of its own, and to 2 % with the libraries, which are most
    of it. By default glibc reuses its heap for them, whose holes depend on the order of all allocations; and further
    threads have scratch memory of their own."""
    out = tmp_path / "estimate.json"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**16))
    command = f"bench --estimate --base scenes --methods sc,controlnet --batches 8 --out {out} --quiet --csv"
    subprocess.run([sys.executable, "-m", "scedit_cli", *command.split()], check=True, capture_output=True)
    for told in json.loads(out.read_text())["results"]:
        measured = measure_apart(told["method"], BenchConfig("scenes", steps=1), SILENT).figures
        assert told["peak_memory"] == pytest.approx(measured.peak_memory, rel=0.02)
        own, predicted = (
            peak - each["libraries"]
            for peak, each in ((measured.peak_memory, measured.memory), (told["peak_memory"], told["memory"]))
        )
        assert own == pytest.approx(predicted, rel=0.08), told["method"]


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    pipeline = tiny.pipeline("sd15")
    save_configs(pipeline, "sd15", tmp_path / "configs")
    save_original(pipeline, "sd15", tmp_path / "mine.safetensors")
    monkeypatch.setattr(single_file, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(single_file, "tokenizer", lambda pad="": tiny.tokenizer())
    return str(tmp_path / "mine.safetensors")


def test_an_estimate_reads_no_weights_of_a_file_or_a_hub_model(checkpoint, monkeypatch):
    folder = tiny.pipeline_folder("sd21")
    expected = [count("sc", architecture(str(each)), 1, 64) for each in (tiny.pipeline_folder("sd15"), folder)]
    asked = []

    def snapshot(repository, revision, allow_patterns, local_files_only):
        asked.append((repository, revision, local_files_only))
        assert not any(Path("unet/diffusion_pytorch_model.safetensors").match(each) for each in allow_patterns)
        wanted = ("unet/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json")
        assert all(any(Path(name).match(each) for each in allow_patterns) for name in wanted)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr(hub, "_commit", lambda _, revision: ({"v2": "0a1b2c"}[revision], []))
    monkeypatch.setattr("scedit_cli.benchmark.architecture.load_base", None)
    assert [count("sc", architecture(each), 1, 64) for each in (checkpoint, "owner/model@v2")] == expected
    assert asked == [("owner/model", "0a1b2c", False)]


def test_a_single_file_is_measured(checkpoint):
    found = measure("sc", BenchConfig(checkpoint, batch=1, steps=1), SILENT)
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


def video_folder(place: Path, kind: str) -> str:
    """A folder with the configurations of a tiny U-Net for videos: "motion", "sdxl motion" or "svd"."""
    if kind == "svd":
        unet, pipeline = skip_models.svd(), "StableVideoDiffusionPipeline"
    else:
        base = tiny.unet("sdxl" if "sdxl" in kind else tiny.SMALLEST)
        adapter = diffusers.MotionAdapter(
            block_out_channels=base.config.block_out_channels, motion_layers_per_block=base.config.layers_per_block,
            motion_norm_num_groups=4, motion_num_attention_heads=2, use_motion_mid_block=False,
        )  # fmt: skip
        unet, pipeline = diffusers.UNetMotionModel.from_unet2d(base, adapter, load_weights=False), "AnimateDiffPipeline"
    unet.save_config(place / "unet")
    tiny.scheduler("sd15").save_pretrained(place / "scheduler")
    parts = {"unet": ["diffusers", type(unet).__name__]}
    (place / "model_index.json").write_text(json.dumps({"_class_name": pipeline} | parts))
    return str(place)


@pytest.mark.parametrize("kind", ["motion", "sdxl motion", "svd"])
def test_unets_for_videos_are_estimated(tmp_path, kind):
    base = architecture(video_folder(tmp_path, kind))
    assert base.pooled == (tiny.SECOND_WIDTH if kind == "sdxl motion" else 0)
    base = replace(base, config=base.config | {"num_frames": 4})
    found = {method: estimate(method, base, 1, 64, options=Options(lora_rank=4)) for method in ("sc", "lora")}
    sc = SCTuner.for_unet(base.on_meta())
    assert found["sc"].trainable_parameters == sum(each.numel() for each in sc.parameters())
    assert 0 < found["sc"].peak_memory < found["lora"].peak_memory
    assert found["sc"].flops_per_step < found["lora"].flops_per_step
    twice = count("sc", replace(base, config=base.config | {"num_frames": 8}), 1, 64).flops
    assert twice == pytest.approx(2 * found["sc"].flops_per_step, rel=0.03)  # attention over time grows with the square


def test_a_damaged_configuration_is_told(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{")
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(SceditError, match="its configuration cannot be read"):
        architecture(str(tmp_path))
    (tmp_path / "unet" / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}')
    with pytest.raises(SceditError, match="a FluxTransformer2DModel, for whose inputs no batch is written"):
        architecture(str(tmp_path))


@pytest.fixture
def changed(tmp_path):
    """A folder of configurations with changes: changed("unet", sample_size=None)."""

    def change(part: str, **values: object) -> str:
        weights = shutil.ignore_patterns("*.safetensors")
        folder = shutil.copytree(tiny.pipeline_folder("sd15"), tmp_path / part, ignore=weights)
        name = "config.json" if part == "unet" else f"{part}_config.json"
        file = folder / part / name
        file.write_text(json.dumps(json.loads(file.read_text()) | values) if values else "{")
        return str(folder)

    return change


def test_levels_of_unlike_depth_have_no_controlnet(changed):
    base = architecture(changed("unet", layers_per_block=[1, 2, 1, 1]))
    figures = estimate("sc", base, 1, 64)
    assert figures.share_of_controlnet is None and figures.trainable_parameters > 0
    with pytest.raises(ValueError, match="diffusers has no ControlNet for this U-Net"):
        estimate("controlnet", base, 1, 64)


def test_a_base_that_does_not_say_its_size_is_asked_about(changed):
    base = architecture(changed("unet", sample_size=None))
    with pytest.raises(SceditError, match="does not say what size it was made for.*add `resolution`"):
        estimate("sc", base, 1)
    assert estimate("sc", base, 1, 64).peak_memory > 0


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("tokenizer", {}),
        ("tokenizer", {"model_max_length": 10**30}),
        ("unet", {"cross_attention_dim": [8, 8]}),
        ("unet", {"block_out_channels": "many"}),
    ],
)
def test_an_odd_configuration_is_told(changed, part, values):
    with pytest.raises(SceditError, match="its configuration cannot be read"):
        architecture(changed(part, **values))
