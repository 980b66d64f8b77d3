"""The examples of the page about diffusers run as they stand, on tiny models under their names."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from scedit_cli import CSCTuner, save_tuner
from scedit_cli.core.attach import attached
from scedit_cli.models.loading import quiet
from tests import tiny

PAGE = Path(__file__).parents[2] / ".github" / "docs" / "diffusers.md"
EXAMPLES = dict(
    re.findall(r"^## ([^\n]*)\n(?:(?!^## ).)*?^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
)
filled = partial(tiny.trained, size=0.05)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A base, a ControlNet, an IP-Adapter with its image encoder, and a LoRA, where the page has them."""
    folder = tmp_path_factory.mktemp("page")
    models = folder / "models"
    torch.manual_seed(0)
    with quiet():
        pipeline = tiny.pipeline("sd15")
        eyes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        vision = CLIPVisionConfig(**eyes, image_size=32, patch_size=16, projection_dim=12)
        pipeline.save_pretrained(models / "sd15")
        filled(ControlNetModel.from_unet(pipeline.unet)).save_pretrained(models / "controlnet-depth")
        encoder = models / "ip-adapter" / "models" / "image_encoder"
        CLIPVisionModelWithProjection(vision).save_pretrained(encoder)
        CLIPImageProcessor(size=32, crop_size=32).save_pretrained(encoder)
        save_file(_ip_adapter(pipeline), models / "ip-adapter" / "models" / "ip-adapter_sd15.safetensors")
        StableDiffusionPipeline.save_lora_weights(models / "lora", unet_lora_layers=_lora(pipeline))
    return folder


def _ip_adapter(pipeline: DiffusionPipeline) -> dict[str, torch.Tensor]:
    weights = {
        "image_proj.proj.weight": torch.randn(4 * tiny.TEXT_WIDTH, 12),
        "image_proj.proj.bias": torch.zeros(4 * tiny.TEXT_WIDTH),
        "image_proj.norm.weight": torch.ones(tiny.TEXT_WIDTH),
        "image_proj.norm.bias": torch.zeros(tiny.TEXT_WIDTH),
    }
    for i, name in enumerate(name for name in pipeline.unet.attn_processors if "attn2" in name):
        layer = pipeline.unet.get_submodule(name.removesuffix(".processor"))
        for part in ("k", "v"):
            weights[f"ip_adapter.{2 * i + 1}.to_{part}_ip.weight"] = torch.randn(
                getattr(layer, f"to_{part}").weight.shape
            )
    return weights


def _lora(pipeline: DiffusionPipeline) -> dict[str, torch.Tensor]:
    layers = {}
    for name, layer in pipeline.unet.named_modules():
        if name.endswith(("to_q", "to_v")):
            layers[f"{name}.lora_A.weight"] = torch.randn(2, layer.in_features)
            layers[f"{name}.lora_B.weight"] = 0.1 * torch.randn(layer.out_features, 2)
    return layers


def run(example: str, steps: int = 2) -> tuple[np.ndarray, DiffusionPipeline]:
    """The image that the example draws, of a fixed seed and few steps."""
    names = {"edges": _shades(1), "maps": _shades(2), "accelerator": "cpu", "torch": torch}
    names["photo"] = Image.fromarray((_shades(3)[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy())
    given = f'"a red cube", height=64, width=64, num_inference_steps={steps}, generator=torch.manual_seed(1)'
    with quiet():
        exec(example.replace('"a red cube"', given), names)
    return np.asarray(names["image"]).astype(int), names["pipeline"]


def _shades(seed: int) -> torch.Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_the_page_has_the_four():
    assert [name.split()[0] for name in EXAMPLES] == ["ControlNet", "IP-Adapter", "LoRA", "Models"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_draws_with_both(world, monkeypatch, name):
    """The tuner changes the image, what stands beside it does too, and afterwards the U-Net is without the tuner."""
    monkeypatch.chdir(world)
    fresh = CSCTuner.for_unet(tiny.unet("sd15"), "canny", hint_channels=8)
    save_tuner(fresh, world / "canny.safetensors")
    without, pipeline = run(EXAMPLES[name])
    plain = pipeline("a red cube", height=64, width=64, num_inference_steps=2, generator=torch.manual_seed(1), **{
        "ControlNet": {"image": _shades(2), "controlnet_conditioning_scale": 0.0},
        "IP-Adapter": {"ip_adapter_image": Image.new("RGB", (64, 64))},
    }.get(name, {})).images[0]  # fmt: skip
    save_tuner(filled(fresh, size=0.3), world / "canny.safetensors")
    drawn, pipeline = run(EXAMPLES[name])
    assert np.abs(drawn - without).max() > 8
    assert attached(pipeline.unet) is None
    if name.startswith("Models"):
        assert np.array_equal(without, np.asarray(plain)) and hasattr(pipeline.unet, "_hf_hook")
    else:
        assert not np.array_equal(without, np.asarray(plain))
