"""What the training loop costs beside its steps: `python -m tests.training.loop_overhead [ROUNDS] [STEPS]`.

Seconds, of the clock and of the processor, for a step of a plain loop (noise, U-Net, loss, backward, clipping, AdamW,
all data in memory) and of `train`'s whole loop (data from the cache, seeded draws, log, progress), turn by turn on the
embedded base at its batch of 16, with the same tuner attached in the same way. What counts is the median of the rounds'
ratios: a noisy minute meets both loops of a round.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from scedit_cli.core.attach import attach
from scedit_cli.core.objective import add_noise, noise_prediction_loss
from scedit_cli.core.tuners import Tuner
from scedit_cli.data.cache import Cache, cache_latents_and_text
from scedit_cli.data.dataset import Dataset, open_dataset
from scedit_cli.data.loader import load_batch
from scedit_cli.data.scenes import write_scenes
from scedit_cli.models.base import Base
from scedit_cli.recipe import Recipe, load_recipe
from scedit_cli.training import builders
from scedit_cli.training.loop import Loop, Told
from scedit_cli.training.run_folder import Run, claimed
from scedit_cli.training.trainer import Trainer

PICTURES = 32


def now() -> np.ndarray:
    """Seconds of the clock and of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def plain_loop(recipe: Recipe, base: Base, tuner: Tuner, cache: Cache) -> np.ndarray:
    """Seconds of a step, the first left out."""
    options = recipe.train
    batch = load_batch(cache, 0, list(range(options.batch_size)))
    latents, alphas = base.latents_from(batch.moments), base.scheduler.alphas_cumprod
    arguments = base.unet_arguments(batch.text, *(8 * side for side in latents.shape[-2:]))
    optimizer = torch.optim.AdamW(tuner.parameters(), lr=options.learning_rate, fused=True)
    with attach(base.unet, tuner, memory=options.memory, recompute=options.recompute) as edits:
        for step in range(options.steps):
            if step == 1:
                began = now()
            noise, timesteps = torch.randn_like(latents), torch.randint(0, len(alphas), (len(latents),))
            edits.set_hints(batch.hints)
            answer = base.unet(add_noise(latents, noise, timesteps, alphas), timesteps, **arguments).sample
            noise_prediction_loss(answer, noise, latents, timesteps, alphas, base.prediction_type).mean().backward()
            torch.nn.utils.clip_grad_norm_(tuner.parameters(), options.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
    return (now() - began) / (options.steps - 1)


def whole_loop(recipe: Recipe, base: Base, tuner: Tuner, cache: Cache, dataset: Dataset, run: Run) -> np.ndarray:
    """Seconds of a step, from the end of the first to that of the last."""
    ended: list[np.ndarray] = []
    told = Told(lambda *_: ended.append(now()), lambda note: None)
    with claimed(run), Trainer(base, tuner, cache, recipe.train, recipe.data) as trainer:
        Loop(recipe, run, dataset, trainer, told).run_steps()
    return (ended[-1] - ended[0]) / (len(ended) - 1)


def main(rounds: int = 5, steps: int = 12) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "scenes"
        write_scenes(data, PICTURES, kinds=("canny",))
        dataset = open_dataset(data)
        sets = [f"data.path={data}", f"train.steps={steps}", "train.precision=fp32", "train.timesteps=uniform"]
        recipe = load_recipe("canny", [*sets, "train.checkpoint_every=0", "samples.every=0", "data.caption_dropout=0"])
        base = builders.open_base(recipe)
        cache, tuner = cache_latents_and_text(dataset, base, ["canny"]), builders.fresh_tuner(recipe, base)
        plain_loop(recipe, base, tuner, cache)  # warms up
        pairs = []
        for number in range(rounds):
            run = Run(Path(folder) / f"run-{number}")
            pairs.append((plain_loop(recipe, base, tuner, cache), whole_loop(recipe, base, tuner, cache, dataset, run)))
            told = [f"plain {plain:.3f} s, train {whole:.3f} s" for plain, whole in zip(*pairs[-1], strict=True)]
            print(f"clock: {told[0]}; processor: {told[1]} a step", flush=True)
    clock, processor = np.median([whole / plain - 1 for plain, whole in pairs], axis=0)
    print(f"median of {rounds} rounds: {clock:+.1%} of the clock's, {processor:+.1%} of the processor's")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
