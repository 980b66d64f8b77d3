"""Control scores and style scores, measured on held-out scenes that no run trains on."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scedit_cli import conditions
from scedit_cli.conditions.protocols import find_protocol
from scedit_cli.core.attach import attach
from scedit_cli.core.tuners import SCTuner, Tuner
from scedit_cli.data.evaluation_set import evaluation_set
from scedit_cli.data.scenes import POSSIBLE_KINDS
from scedit_cli.inference.evaluation import RECONSTRUCTION, WITHOUT, Arm, Evaluator
from scedit_cli.inference.sampler import sample, to_tensor
from scedit_cli.inference.sampling_options import SamplingOptions
from scedit_cli.models.base import Base
from scedit_cli.scenes import HELD_OUT_SEED
from scedit_cli.scenes.captions import named_objects
from scedit_cli.scenes.reader import load_reader
from scedit_cli.training.datasets import held_out_scenes, rendered_scenes
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.reporter import SILENT, Reporter


@dataclass(frozen=True)
class Score:
    """The control that a tuner has over one condition.

    `with_`, `without` and `reconstruction` are mean consistencies in [0, 1] over `scenes` images: generated with the
    tuners, generated without them, and reference images passed through the autoencoder. `score` is (with - without) /
    (reconstruction - without), or None where `reconstruction` is not above `without`.
    """

    with_: float
    without: float
    reconstruction: float
    score: float | None
    scenes: int


@dataclass(frozen=True)
class StyleScore:
    """The quality of an SC-Tuner's style, as shares of `scenes` images: `nearer` is the share nearer to renders in that
    look than to plain renders, `objects` the share of the objects named by the captions that is present."""

    nearer: float
    objects: float
    scenes: int


def control_scores(
    base: Base,
    tuners: Sequence[Tuner],
    scales: Sequence[float] | None = None,
    *,
    scenes: int = 128,
    seed: int = 0,
    batch_size: int = 32,
    reporter: Reporter = SILENT,
) -> dict[str, Score]:
    """Return the control score of every condition of `tuners`, which are attached together, on the embedded base.

    Images with and without the tuners have the same captions and noise, and the base's default steps and guidance.

    Args:
        scales: the α of each tuner, 1 by default.
        scenes: the number of held-out scenes; the first one has the number `seed`.
        reporter: gets (denoising steps done, of how many).

    Raises:
        SceditError: scenes lack one of the conditions, or the tuners cannot be attached together.
    """
    kinds = [tuner.condition for tuner in tuners if tuner.condition]
    if unknown := [kind for kind in kinds if kind not in POSSIBLE_KINDS]:
        raise SceditError(
            f"scenes have no {unknown[0]} conditions to score", hint=f"they have {', '.join(POSSIBLE_KINDS)}"
        )
    dataset = rendered_scenes(scenes, HELD_OUT_SEED + seed, "plain", kinds, size=base.defaults.resolution)
    images = evaluation_set(dataset, kinds, scenes=True, device=str(base.device))
    protocol = find_protocol("scedit")
    evaluator = Evaluator(base, images, protocol, SamplingOptions(batch_size=batch_size))
    arm = Arm("with", tuple(tuners), tuple(scales or [1.0] * len(tuners)))
    found = evaluator.run([arm, WITHOUT, RECONSTRUCTION], reporter)
    scores = {}
    for kind in kinds:
        means = [
            statistics.fmean(figures["consistency"] for figures in found.figures[name][kind])
            for name in ("with", "without", "reconstruction")
        ]
        scores[kind] = Score(*means, conditions.control_score(*([mean] for mean in means)), scenes)
    return scores


def style_score(
    base: Base,
    tuner: SCTuner,
    look: str = "pastel",
    scale: float = 1.0,
    *,
    scenes: int = 128,
    seed: int = 0,
    sampling: SamplingOptions = SamplingOptions(),
    reporter: Reporter = SILENT,
) -> StyleScore:
    """Return how well `tuner` draws held-out scenes in `look`, by the embedded reader. An image is nearer to the look
    whose renders of the same captions have the nearer mean, in features scaled to unit deviation over both looks.

    Args:
        scenes: the number of held-out scenes; the first one has the number `seed`.
        sampling: how the images are drawn, by default 32 at once.
        reporter: gets (denoising steps done, of how many).
    """
    size = base.defaults.resolution
    plain, styled = (held_out_scenes(scenes, seed, (), size, each) for each in ("plain", look))
    with attach(base.unet, tuner.to(base.device), [scale]) as edits:
        texts = [each.text for each in plain]
        drawn = sample(
            base,
            texts,
            attachment=edits,
            seeds=range(sampling.seed, sampling.seed + scenes),
            steps=sampling.steps,
            guidance=sampling.guidance,
            scheduler=sampling.scheduler,
            batch_size=sampling.batch_size or 32,
            reporter=reporter,
        )
        images = to_tensor(drawn)
    renders = [to_tensor([each.image for each in shown]) for shown in (plain, styled)]
    made, *looks = (load_reader().read(each).features for each in (images, *renders))
    deviation = torch.cat(looks).std(0).clamp(min=1e-6)
    from_plain, from_styled = (((made - each.mean(0)) / deviation).norm(dim=1) for each in looks)
    nearer = (from_styled < from_plain).double().mean().item()
    return StyleScore(nearer, named_share(texts, images), scenes)


def named_share(captions: Sequence[str], images: Tensor) -> float:
    """Return the share of the (colour, shape) objects named by `captions` that the embedded reader recognises in
    `images` (B, 3, H, W) in [0, 1], one image per caption."""
    return found_share(captions, load_reader().read(images).objects())


def found_share(captions: Sequence[str], found: Sequence[set[tuple[str, str]]]) -> float:
    """Return the share of the (colour, shape) objects named by `captions` that is in `found`, one set per caption."""
    named = [set(named_objects(caption)) for caption in captions]
    return sum(len(n & f) for n, f in zip(named, found, strict=True)) / sum(map(len, named))

