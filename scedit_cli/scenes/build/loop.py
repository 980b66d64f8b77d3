"""The stages' common training loop: resumable, with a warm-up and a cosine schedule."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from scedit_cli.utils.devices import training_precision


def train(
    name: str,
    work: Path,
    modules: dict[str, torch.nn.Module],
    loss_at: Callable[[int], torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.01,
    warmup: int = 200,
    clip: float = 1.0,
    ema: float = 0.0,
    first: int = 0,
    save_every: int = 500,
) -> None:
    """Minimise `loss_at(first + step)` over the modules' parameters with AdamW, in the precision that the loss chooses.

    With `ema`, the modules hold the moving average at the end. The state is saved in WORK/NAME.pt every `save_every`
    steps, and an interrupted stage resumes from it.
    """
    parameters = [p for module in modules.values() for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
    average = [p.detach().clone() for p in parameters] if ema else []
    path, start = work / f"{name}.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        for key, module in modules.items():
            module.load_state_dict(state["modules"][key])
        optimizer.load_state_dict(state["optimizer"])
        average, start = state["average"], state["step"]
    began, smooth = time.monotonic(), None
    for step in range(start, steps):
        torch.manual_seed(first + step)  # so that a resumed stage draws the same numbers as an uninterrupted one
        factor = min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * factor
        loss = loss_at(first + step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad()
        if ema:
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(ema, (step + 1) / (step + 10)))
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if (step + 1) % 100 == 0:
            pace = (time.monotonic() - began) / (step + 1 - start)
            left = pace * (steps - step - 1) / 60
            print(f"{name}: {step + 1}/{steps} loss {smooth:.4f} {pace:.3f} s/step, {left:.1f} min left", flush=True)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            state = {
                "modules": {key: m.state_dict() for key, m in modules.items()},
                "optimizer": optimizer.state_dict(),
                "average": average,
                "step": step + 1,
            }
            torch.save(state, path.with_suffix(".partial"))
            os.replace(path.with_suffix(".partial"), path)
    with torch.no_grad():
        if average:
            torch._foreach_copy_(parameters, average)


def fast_products() -> torch.autocast:
    """Return a context of bfloat16 products, or of plain ones on a processor that has none."""
    return torch.autocast("cpu", torch.bfloat16, enabled=training_precision("cpu") == "bf16")
