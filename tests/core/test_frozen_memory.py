"""What memory="lean" and "checkpoint" take: predicted for Stable Diffusion 1.5, and measured on a small U-Net."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from peft.helpers import disable_input_dtype_casting

from scedit_cli.benchmark import estimate
from scedit_cli.benchmark.architecture import architecture

MIB = 2**20


@cache
def peak(method: str) -> int:
    """As `scedit bench --estimate --batch 8` has it."""
    return sum(estimate.peak(method, architecture("sd15"), 8, 512, "bf16").values())


@pytest.mark.parametrize(
    ("method", "other", "share"),
    [
        ("sc", "lora", 0.45),
        ("sc", "full", 0.22),
        ("sc-checkpoint", "lora", 0.32),
        ("csc", "controlnet", 0.38),
    ],
)
def test_the_peak_beside_other_methods(method, other, share):
    assert peak(method) <= share * peak(other)


def test_pefts_casts_are_a_small_part_of_loras_peak(monkeypatch):
    """peft lifts what goes into an adapter to its float32, which is kept for the backward pass."""
    prepared = estimate.prepared

    @contextmanager
    def without_casts(*args: object):
        with prepared(*args) as trainable, disable_input_dtype_casting(trainable.unet):
            yield trainable

    with_casts = peak("lora")
    monkeypatch.setattr(estimate, "prepared", without_casts)
    assert 1.08 < with_casts / sum(estimate.peak("lora", architecture("sd15"), 8, 512, "bf16").values()) < 1.10


MEASURE = """
import torch
from diffusers import UNet2DConditionModel
from scedit_cli import SCTuner, attach
from scedit_cli.utils.process_memory import Memory

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
