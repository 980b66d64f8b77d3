"""The images to make: every prompt with every seed and every scale of a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from scedit_cli.generation.config import GenerationConfig, Prompt
from scedit_cli.inference.config import Control


@dataclass(frozen=True)
class ImageJob:
    """One image to make.

    Attributes:
        controls: the controls of the image.
        scales: α in place of the one given, by the name of a condition or SC-Tuner.
        row, column: the labels of its place in a grid.
    """

    prompt: str
    negative: str
    seed: int
    controls: tuple[Control, ...] = ()
    scales: Mapping[str, float] = field(default_factory=dict)
    row: str = ""
    column: str = ""


def jobs_of(config: GenerationConfig) -> list[ImageJob]:
    """Return all image jobs, prompt by prompt, seed by seed, with the last sweep varying fastest."""
    sweeps = config.overrides.sweeps
    jobs = []
    for prompt in config.prompts:
        controls = _controls_of(config, prompt)
        seeds = prompt.seeds or config.seeds
        for seed, *values in itertools.product(seeds, *sweeps.values()):
            swept = dict(zip(sweeps, values, strict=True))
            labels = [f"{name} {value:g}" for name, value in swept.items()]
            row = [prompt.text, *([] if len(seeds) == 1 or not sweeps else [f"seed {seed}"]), *labels[:-1]]
            jobs.append(
                ImageJob(
                    prompt.text,
                    config.sampler.negative if prompt.negative is None else prompt.negative,
                    seed,
                    controls,
                    {**config.overrides.scales, **prompt.scales, **swept},
                    " · ".join(filter(None, row)),
                    labels[-1] if sweeps else f"seed {seed}",
                )
            )
    return jobs


def _controls_of(config: GenerationConfig, prompt: Prompt) -> tuple[Control, ...]:
    """Return the controls of all images, with the prompt's own in place of those of their kinds."""
    common = [control for control in config.controls if control.kind not in prompt.controls]
    return (*common, *(control for control in prompt.controls.values() if control is not None))
