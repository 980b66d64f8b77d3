"""What memory="lean" and "checkpoint" take: predicted for Stable Diffusion 1.5, and measured on a small U-Net."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from peft import LoraConfig
from torch import nn
from torch._subclasses import FakeTensorMode

import scedit_cli
from scedit_cli import CSCTuner, SCTuner, attach
from scedit_cli.benchmark.live import LiveStorages

SD15 = Path(scedit_cli.__file__).parent / "configs" / "sd15" / "unet.json"
BATCH, SIDE = 8, 64  # latents of pictures of 512 pixels
MIB = 2**20


@cache
def peak(method: str, memory: str = "plain") -> int:
    """Bytes at the peak of a training step on SD1.5 at 512 pixels in bfloat16, with float32 weights that learn, their
    gradients and AdamW's moments, on a CPU's rules of autocast."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(json.loads(SD15.read_text()))
        modules, learning, predict = prepared(method, memory, unet.to(torch.bfloat16).requires_grad_(False))
    with FakeTensorMode(allow_non_fake_inputs=True), LiveStorages() as live:
        for module in modules:
            module.to_empty(device="cpu")
        weights = [each for each in learning.parameters() if each.requires_grad]
        noise, context = torch.empty(BATCH, 4, SIDE, SIDE), torch.empty(BATCH, 77, 768, dtype=torch.bfloat16)
        moments = [torch.empty_like(each) for each in (*weights, *weights)]
        live.forget_peak()
        with torch.autocast("cpu", torch.bfloat16):
            answer = predict(unet, noise.bfloat16(), torch.zeros(BATCH), context, torch.empty(BATCH, 3, 512, 512))
        F.mse_loss(answer.float(), noise).backward()
        assert all(each.grad is not None for each in weights) and moments
    return live.peak


def prepared(method: str, memory: str, unet: nn.Module):
    """The modules of a method, the one that learns, and how it predicts."""
    if method in ("sc", "csc"):
        tuner = SCTuner.for_unet(unet) if method == "sc" else CSCTuner.for_unet(unet, condition="canny")
        edits = attach(unet, tuner, memory=memory)

        def predict(unet, noisy, times, context, hint):
            edits.set_hints({"canny": hint} if tuner.condition else None)
            return unet(noisy, times, context).sample

        return (unet, tuner), tuner, predict
    if method == "controlnet":
        controlnet = ControlNetModel.from_unet(unet, load_weights_from_unet=False).float()

        def predict(unet, noisy, times, context, hint):
            down, mid = controlnet(noisy, times, context, hint, return_dict=False)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
            return unet(noisy, times, context, **residuals).sample

        return (unet, controlnet), controlnet, predict
    if method == "lora":
        unet.add_adapter(LoraConfig(r=64, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
        for each in unet.parameters():
            each.data = each.float() if each.requires_grad else each
    else:
        unet.float().requires_grad_(True)
    return (unet,), unet, lambda unet, noisy, times, context, hint: unet(noisy, times, context).sample


@pytest.mark.parametrize(
    ("method", "memory", "other", "share"),
    [
        ("sc", "lean", "lora", 0.45),
        ("sc", "lean", "full", 0.22),
        ("sc", "checkpoint", "lora", 0.32),
        ("csc", "lean", "controlnet", 0.38),
    ],
)
def test_the_peak_beside_other_methods(method, memory, other, share):
    assert peak(method, memory) <= share * peak(other)


MEASURE = """
import torch
from diffusers import UNet2DConditionModel
from scedit_cli import SCTuner, attach
from scedit_cli.benchmark.memory import Memory

torch.manual_seed(0)
unet = UNet2DConditionModel(
    block_out_channels=(64, 128),
    layers_per_block=1,
    attention_head_dim=2,
    cross_attention_dim=32,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    mid_block_type=None,
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
).requires_grad_(False)
tuner = SCTuner.for_unet(unet)

def step(memory, side):
    with attach(unet, tuner, memory=memory):
        unet(torch.randn(4, 4, side, side), 0, torch.randn(4, 77, 32)).sample.square().mean().backward()

step("plain", 8)
resident = Memory(torch.device("cpu"))
for memory in ("lean", "plain"):
    resident.forget()
    step(memory, 64)
    print(resident.peak() - resident.libraries)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from Linux's /proc")
def test_the_peak_of_resident_memory():
    returned = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}  # what is freed goes back to the system
    run = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, env=returned)
    lean, plain = map(int, run.stdout.split())
    assert plain > 200 * MIB
    assert lean <= 0.62 * plain
