"""Stage 4: the reader, trained on rendered ground truth in both looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from scedit_cli.scenes.build import pictures
from scedit_cli.scenes.build.loop import fast_products, train
from scedit_cli.scenes.encodings import DEPTH_FAR, DEPTH_NEAR
from scedit_cli.scenes.reader import Reader

STEPS = 5000


def train_reader(work: Path, truths: int, styled: int) -> Reader:
    torch.manual_seed(0)
    reader = Reader().train()
    names = ("images", "depth", "normals", "segmentation", "colors")
    plain, depth, normals, segmentation, colors = pictures.load(work, "plain", truths, *names)
    (pastel,) = pictures.load(work, "pastel", min(truths, styled), "images")

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng([step, 2])
        rows = rng.integers(0, len(plain), 8)
        chosen = [pastel[r] if r < len(pastel) and rng.random() < 0.25 else plain[r] for r in rows]
        x = torch.from_numpy(np.stack(chosen)).permute(0, 3, 1, 2).float() / 255
        x = _worn(x, rng)
        metres = torch.from_numpy(depth[rows].astype(np.float32))
        shapes, hues = (torch.from_numpy(truth[rows].astype(np.int64)) for truth in (segmentation, colors))
        directions = torch.from_numpy(normals[rows].astype(np.float32) / 127).permute(0, 3, 1, 2)
        with fast_products():
            depth_map, normal_map, shape_logits, color_logits, _ = reader(x)
        solid = (shapes > 0).float()
        wanted = ((metres.clamp(DEPTH_NEAR, DEPTH_FAR) - DEPTH_NEAR) / (DEPTH_FAR - DEPTH_NEAR)) * solid
        return (
            5 * ((depth_map[:, 0].float() - wanted).abs() * solid).mean()
            + ((normal_map.float() - directions).abs().mean(1) * solid).mean()
            + functional.cross_entropy(shape_logits.float(), shapes)
            + functional.cross_entropy(color_logits.float(), hues)
        )

    train("reader", work, {"reader": reader}, loss_at, steps=STEPS, learning_rate=2e-3, warmup=100)
    return reader.eval()


def _worn(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Blur half of the batches and add noise to them, to look like images decoded from small latents."""
    if rng.random() < 0.5:
        size = int(rng.integers(48, 112))
        x = functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
        x = functional.interpolate(x, size=(128, 128), mode="bicubic").clamp(0, 1)
        x = x + 0.03 * float(rng.random()) * torch.randn_like(x)
    return x
