"""What encoding once saves: `python -m tests.training.encoding [ROUNDS]`, some minutes and 8 GB.

The processor's time of a training step of a CSC-Tuner on a base of Stable Diffusion 1.5's sizes (random weights,
float32, 256 pixels, one picture), turn by turn: by `Trainer` from cached latents and text, by `Trainer` from shards
that are streamed, and by the loop of diffusers' example trainers, whose autoencoder and text encoder run at every step.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import torch

from scedit_cli.core.attach import attach
from scedit_cli.core.objective import add_noise, noise_prediction_loss
from scedit_cli.data.cache import cache_latents_and_text
from scedit_cli.data.dataset import open_dataset
from scedit_cli.data.hints import read_uint8
from scedit_cli.data.scenes import write_scenes
from scedit_cli.data.shard_dataset import open_streamed
from scedit_cli.data.shards import write_shards
from scedit_cli.data.stream import Stream
from scedit_cli.models.base import Base
from scedit_cli.recipe import Recipe
from scedit_cli.training import builders
from scedit_cli.training.trainer import Trainer
from tests.full_size import random_pipeline


def clock() -> float:
    times = os.times()
    return times.user + times.system


def main(rounds: int) -> None:
    pipeline = random_pipeline()
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.requires_grad_(False).eval()
    base = Base("random-sd15", "sd15", None, pipeline)
    base.unet.to(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data"
        write_scenes(data, 4, size=256, kinds=("canny",))
        dataset = open_dataset(data)
        write_shards(dataset, data / "shards")
        recipe = Recipe.from_dict(
            {
                "base": {"model": "random-sd15"},
                "tuner": {"kind": "csc", "condition": "canny"},
                "data": {"path": str(data)},
                "train": {"steps": 1000, "batch_size": 1, "learning_rate": 1e-4, "precision": "fp32"},
            }
        )
        began = clock()
        cache = cache_latents_and_text(dataset, base, ["canny"])
        print(f"encoding {len(dataset)} pictures once: {clock() - began:.1f} s", flush=True)
        tuner = builders.fresh_tuner(recipe, base)
        stream = Stream(open_streamed(str(data / "shards"), (256, 256), ("canny",)), 1)
        found: dict[str, list[float]] = {"cached": [], "streamed": [], "diffusers' way": []}
        for _ in range(rounds):
            for name, of in (("cached", None), ("streamed", stream)):
                with Trainer(base, tuner, cache, recipe.train, recipe.data, stream=of) as trainer:
                    trainer.advance()  # warms up
                    began = clock()
                    trainer.advance()
                    found[name].append(clock() - began)
            found["diffusers' way"].append(plain(base, tuner, dataset))
            print({name: [round(each, 2) for each in seconds] for name, seconds in found.items()}, flush=True)
    least = {name: min(seconds) for name, seconds in found.items()}
    for name in ("streamed", "diffusers' way"):
        print(f"{name}: {least[name] / least['cached']:.2f} times the time of a step from the cache")


def plain(base: Base, tuner: torch.nn.Module, dataset) -> float:
    """Seconds of the second of two steps as diffusers' example trainers make them."""
    pipeline, alphas = base.pipeline(), base.scheduler.alphas_cumprod
    optimizer = torch.optim.AdamW(tuner.parameters(), lr=1e-4, fused=True)
    with attach(base.unet, tuner) as edits:
        for item in dataset.items[:2]:
            pixels = read_uint8(item.image)[None].float() / 127.5 - 1
            hints = read_uint8(item.conditions["canny"])[None].float() / 255
            began = clock()
            with torch.no_grad():
                latents = pipeline.vae.encode(pixels).latent_dist.sample() * pipeline.vae.config.scaling_factor
                ids = pipeline.tokenizer(
                    item.text, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
                ).input_ids
                context = pipeline.text_encoder(ids)[0]
            noise, timesteps = torch.randn_like(latents), torch.randint(0, len(alphas), (1,))
            edits.set_hints({"canny": hints})
            answer = base.unet(add_noise(latents, noise, timesteps, alphas), timesteps, context).sample
            noise_prediction_loss(answer, noise, latents, timesteps, alphas, "epsilon").mean().backward()
            torch.nn.utils.clip_grad_norm_(tuner.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return clock() - began


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
