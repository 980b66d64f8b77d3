"""The cost and the quality of images whose sampling reuses deep layers, against the steps between two full ones."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from scedit_cli import conditions, scenes
from scedit_cli.benchmark.architecture import Architecture
from scedit_cli.benchmark.plot import FAINT, INK, OURS, PEERS, save
from scedit_cli.benchmark.step import random_batch
from scedit_cli.benchmark.timing import timed
from scedit_cli.core.attach import attach
from scedit_cli.core.reuse import reuse
from scedit_cli.core.tuners import CSCTuner
from scedit_cli.core.weights import load_tuner
from scedit_cli.inference.sampler import sample, to_hints, to_images, to_tensor
from scedit_cli.models.base import DTYPES, EMBEDDED, Base, load_base
from scedit_cli.training.datasets import held_out_scenes
from scedit_cli.training.evaluation import named_share
from scedit_cli.utils.reporter import Reporter

EVERY = (1, 2, 3, 4, 5)  # the values of `reuse` on the curve
_KIND, _AT_ONCE = "canny", 32


@dataclass(frozen=True)
class ReusePoint:
    """One value of `reuse`.

    Attributes:
        every: the number of steps from one full step to the next.
        ratio: the mean time of a step with a CSC-Tuner, as a share of a full one's.
        score, objects: the control score of the shipped canny tuner, and the share of the objects named by the captions
            that are drawn; None off the embedded base.
    """

    every: int
    ratio: float
    score: float | None = None
    objects: float | None = None


def reuse_curve(
    base: Architecture, resolution: int, dtype: str, rounds: int, scenes_: int, device: torch.device, reporter: Reporter
) -> list[ReusePoint]:
    """Return the curve over EVERY.

    Args:
        rounds: the number of full and of reused steps that are timed.
        scenes_: the number of held-out scenes that are drawn for each point, on the embedded base.
        reporter: gets (units done, of how many), and its stages.
    """
    share = live_share(base, resolution, dtype, rounds, device)
    quality = [(None, None)] * len(EVERY)
    if base.name == EMBEDDED:
        quality = _quality(load_base(device=device), scenes_, reporter.stage("drawing"))
    return [
        ReusePoint(every, (1 + (every - 1) * share) / every, *each) for every, each in zip(EVERY, quality, strict=True)
    ]


@torch.inference_mode()
def live_share(base: Architecture, resolution: int, dtype: str, rounds: int, device: torch.device) -> float:
    """Return the time of a step that reuses the deep layers as a share of a full one's: the median over `rounds` of a
    guided batch of two with one CSC-Tuner, in turns."""
    precision = DTYPES[dtype]
    unet = base.unet(precision, device)
    inputs, _ = random_batch(base, 2, resolution, precision, device)
    tuner = CSCTuner.for_unet(unet, condition=_KIND).to(precision).requires_grad_(False)
    ratios = []
    with attach(unet, tuner) as edits, reuse(unet, 2):
        edits.set_hints(inputs.hint[:1].to(precision))
        for _ in range(1 + rounds):
            full, live = (
                timed(lambda: unet(inputs.latents, inputs.timesteps, **inputs.text), device) for _ in range(2)
            )
            ratios.append(live / full)
    return statistics.median(ratios[1:])  # the first round allocates


def _quality(base: Base, count: int, reporter: Reporter) -> list[tuple[float, float]]:
    """Return score and share of named objects for each of EVERY."""
    shown = held_out_scenes(count, 0, [_KIND], base.defaults.resolution)
    texts, wanted = [each.text for each in shown], [each.conditions[_KIND] for each in shown]
    real = to_tensor([each.image for each in shown])
    through = []
    for some in real.split(_AT_ONCE):
        through += to_images(base.decode(base.latents_from(base.encode_images(some))))
    options = {"seeds": range(count), "batch_size": _AT_ONCE}
    without = sample(base, texts, reporter=reporter.part(0, len(EVERY) + 1), **options)
    limits = [conditions.consistencies(_KIND, images, wanted) for images in (without, through)]
    found = []
    with attach(base.unet, load_tuner(scenes.TUNERS / f"{_KIND}.safetensors").to(base.device)) as edits:
        for number, every in enumerate(EVERY, start=1):
            watched = reporter.part(number, len(EVERY) + 1)
            options |= {"attachment": edits, "hints": {_KIND: to_hints(_KIND, wanted)}, "reuse": every}
            drawn = sample(base, texts, reporter=watched, **options)
            score = conditions.control_score(conditions.consistencies(_KIND, drawn, wanted), *limits)
            found.append((score, named_share(texts, to_tensor(drawn))))
    return found


def draw_reuse(path: Path, points: Sequence[ReusePoint]) -> None:
    """Draw the curve: mean time of a step, and the quality where it is known, against the steps between full ones."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    every = [point.every for point in points]
    curves = {
        "time of a step": ([point.ratio for point in points], PEERS, "-"),
        "control score": ([point.score for point in points], OURS, "-"),
        "objects of the caption drawn": ([point.objects for point in points], OURS, "--"),
    }
    for name, (values, color, line) in curves.items():
        if None not in values:
            axes.plot(every, values, marker="o", markersize=4, color=color, linestyle=line, label=name)
    axes.set_xticks(every)
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])  # the highest point is drawn whole
    axes.set_xlabel("reuse: steps from one full step to the next", fontsize=8, color=FAINT)
    title = "Deep layers reused while sampling; the time is a share of reuse 1's"
    axes.set_title(title, loc="left", fontsize=9.5, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, labelcolor=INK, color=FAINT)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    save(figure, path)
