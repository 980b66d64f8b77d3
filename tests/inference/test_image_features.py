from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from torch import Tensor, nn

from scedit_cli.inference.frechet import frechet_distance
from scedit_cli.inference.image_features import clip_measure, inception_measure, resized
from scedit_cli.utils.errors import SceditError
from tests import tiny

CPU = torch.device("cpu")


def picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    return Image.fromarray(pixels)


class Layers(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels[:, :, ::64, ::64].flatten(1)


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)


def test_images_are_resized_as_clean_fid_does():
    """Three pixels of cleanfid.resize.build_resizer("clean") of clean-fid 0.1.35 for this image."""
    found = resized(picture())
    assert found.shape == (299, 299, 3) and found.dtype == np.float32
    theirs = [
        [70.4483642578125, 136.8115997314453, 191.8085174560547],
        [202.9155731201172, 171.4481658935547, 38.78911590576172],
        [225.1412353515625, 54.83013916015625, 137.43032836914062],
    ]
    np.testing.assert_allclose([found[0, 0], found[100, 200], found[298, 7]], theirs, atol=1e-6, rtol=0)


def test_features_are_those_of_the_layers_on_scaled_pixels(tmp_path):
    torch.jit.script(Inception()).save(tmp_path / "inception.pt")
    found = inception_measure(tmp_path / "inception.pt", CPU)([picture(0), picture(1)], [])
    expected = [(resized(picture(seed))[::64, ::64] - 128) / 128 for seed in (0, 1)]
    np.testing.assert_allclose(found, [each.transpose(2, 0, 1).flatten() for each in expected], atol=1e-6)
    (tmp_path / "none.pt").write_bytes(b"not a model")
    with pytest.raises(SceditError, match="`inception` .*none.pt is no Inception model"):
        inception_measure(tmp_path / "none.pt", CPU)


def test_fid_is_the_formula():
    draw = torch.Generator().manual_seed(0)
    made, real = torch.randn(300, 6, generator=draw) * 2 + 1, torch.randn(300, 6, generator=draw)
    one, two = (np.cov(each.double().numpy(), rowvar=False) for each in (made, real))
    expected = (made.double().mean(0) - real.double().mean(0)).square().sum().item()
    expected += np.trace(one + two - 2 * sqrtm(one @ two).real)
    assert frechet_distance(made, real, scaled=False) == pytest.approx(expected, abs=1e-6)


def test_clip_scores_are_cosines(tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPVisionConfig

    torch.manual_seed(0)
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                              image_size=32, patch_size=16, projection_dim=8)  # fmt: skip
    config = CLIPConfig(text_config=tiny.text_config().to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    model = CLIPModel(config).eval()
    size = {"shortest_edge": 32}
    processor = CLIPProcessor(CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32}), tiny.tokenizer())
    model.save_pretrained(tmp_path / "clip")
    processor.save_pretrained(tmp_path / "clip")
    captions = ["a cube", "a longer caption " * 200]
    found = clip_measure(tmp_path / "clip", CPU)([picture(0), picture(1)], captions)
    with torch.no_grad():
        inputs = processor(text=captions, images=[picture(0), picture(1)], return_tensors="pt", padding=True,
                           truncation=True, max_length=config.text_config.max_position_embeddings)  # fmt: skip
        answer = model(**inputs)
    pair = [each / each.norm(dim=-1, keepdim=True) for each in (answer.image_embeds, answer.text_embeds)]
    np.testing.assert_allclose(found[:, 0], 100 * (pair[0] * pair[1]).sum(-1), atol=1e-4)
    with pytest.raises(SceditError, match="`clip` .*none is no CLIP model.*openai/clip-vit-base-patch16"):
        clip_measure(Path(tmp_path / "none"), CPU)
