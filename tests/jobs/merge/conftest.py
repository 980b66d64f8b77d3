"""Trained-looking tuners in files, for a tiny U-Net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from scedit_cli import CSCTuner, SCTuner, attach, save_tuner
from scedit_cli.jobs import merge as job
from scedit_cli.jobs.checks.merge import MergeRequest
from scedit_cli.utils.reporter import Reporter
from scedit_cli.utils.specs import parse_tuner
from tests import tiny


def merge(texts: Sequence[str], reporter: Reporter | None = None, **options) -> job.MergeResult:
    """Merges the tuners that `texts` name, as the command does."""
    return job.merge(MergeRequest([parse_tuner(text) for text in texts], **options), reporter)


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return tiny.unet("sd15").eval().requires_grad_(False)


@pytest.fixture
def saved(unet, tmp_path):
    """Writes a tuner as if it had been trained: saved("canny"), or saved() for an SC-Tuner; returns its path."""

    def save(condition: str | None = None, name: str | None = None, seed: int = 1, **metadata: str) -> Path:
        tuner = CSCTuner.for_unet(unet, condition, hint_channels=8) if condition else SCTuner.for_unet(unet)
        return save_tuner(tiny.trained(tuner, seed), tmp_path / f"{name or condition or 'sc'}.safetensors", metadata)

    return save


@pytest.fixture
def edited() -> Callable[..., Tensor]:
    """What the U-Net says with these tuners on: edited(unet, tuners, scales, canny=hint)."""

    def run(unet, tuners, scales=None, **hints):
        draw = torch.Generator().manual_seed(5)
        sample, context = torch.randn(2, 4, 8, 8, generator=draw), torch.randn(2, 7, tiny.TEXT_WIDTH, generator=draw)
        with torch.no_grad(), attach(unet, tuners, scales) as edits:
            edits.set_hints(hints or None)
            return unet(sample, torch.tensor([10, 700]), context).sample

    return run
