"""The measured rate of matrix products of a device, to which the speed of a training step is compared."""

from __future__ import annotations

import time

import torch
from torch import nn

from scedit_cli.benchmark.architecture import architecture
from scedit_cli.benchmark.methods import prepared
from scedit_cli.benchmark.step import loss_of, random_batch
from scedit_cli.benchmark.timing import synchronise
from scedit_cli.utils.names import EMBEDDED

_SIDES = {"cpu": 1024, "cuda": 8192}
_SECONDS = 0.5


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Return the floating-point operations per second of large square products in `dtype`, the best of many."""
    side = _SIDES.get(device.type, 2048)
    one, two = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        started = time.perf_counter()
        one @ two
        synchronise(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def wake_libraries(device: torch.device) -> None:
    """Make a small training step, so that memory loaded by the libraries at first use counts alike for all methods. On
    a CPU, where the code is resident memory too, also load the embedded base and make a step on it."""
    import diffusers.models.controlnets.controlnet  # noqa: F401
    import peft  # noqa: F401

    layers = [nn.Conv2d(64, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.SiLU(), nn.Conv2d(64, 64, 1)]
    net = nn.Sequential(*layers).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), fused=device.type in ("cpu", "cuda"))
    x = torch.randn(2, 64, 64, 64, device=device)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype != torch.float32):
            tokens = net(x).flatten(2).transpose(1, 2)
            nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).float().square().mean().backward()
    optimizer.step()
    synchronise(device)
    if device.type == "cpu":
        base = architecture(EMBEDDED)
        with torch.random.fork_rng(devices=[]), prepared("sc", base.unet(torch.float32, device)) as trainable:
            loss_of(trainable, *random_batch(base, 1, base.resolution, torch.float32, device), base).backward()
