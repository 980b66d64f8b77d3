"""The evaluation of trained methods on held-out scenes of the embedded world."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from scedit_cli import conditions
from scedit_cli.benchmark.methods import Inputs, TrainableMethod
from scedit_cli.core.objective import FLOW, add_noise, noise_prediction_loss
from scedit_cli.data.cache import Cache, cache_latents_and_text, component_digests
from scedit_cli.data.scenes import Example
from scedit_cli.inference.frechet import frechet_distance
from scedit_cli.inference.sampler import sample, to_images, to_tensor
from scedit_cli.models.base import Base
from scedit_cli.scenes.reader import load_reader
from scedit_cli.training.datasets import held_out_scenes, rendered_scenes
from scedit_cli.training.evaluation import named_share
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.reporter import SILENT, Reporter
from scedit_cli.utils.result_cache import ResultCache

CONDITION, LOOK = "canny", "pastel"  # the tasks of methods with a hint, and of those without
_LOSS_SCENES = 64
_AT_ONCE = 32  # images


@dataclass(frozen=True)
class Limits:
    """The limits of the embedded base without training, over the scenes of an evaluation.

    Attributes:
        psnr: the mean PSNR in dB of images passed through the autoencoder.
        objects: the share of the objects named by the captions that the base draws.
        without: the consistencies with CONDITION of the images that the base draws from the captions alone.
        reconstruction: the consistencies of the scenes passed through the autoencoder.
    """

    psnr: float
    objects: float
    without: list[float]
    reconstruction: list[float]


class Evaluation:
    """Held-out scenes and the measures taken on them.

    Args:
        base: the unmodified embedded base.
        scenes: the number of scenes.
        kept: the cache of `limits`.

    Raises:
        SceditError: the base was trained by flow matching.
    """

    def __init__(self, base: Base, scenes: int, kept: ResultCache) -> None:
        if base.prediction_type == FLOW:
            message = f"base {base.name} was trained by flow matching, and these trainings predict noise"
            raise SceditError(message, "score a tuner that `scedit train` made on it, with `tuner=FILE`", "base")
        self._base, self._kept, self.base_digests = base, kept, component_digests(base)
        size = base.defaults.resolution
        self.plain = held_out_scenes(scenes, 0, [CONDITION], size)
        self._styled = held_out_scenes(scenes, 0, [], size, LOOK)
        self.texts = [each.text for each in self.plain]
        self._wanted = [each.conditions[CONDITION] for each in self.plain]
        self._hints = to_tensor(self._wanted)

    @property
    def device(self) -> torch.device:
        return self._base.device

    @cached_property
    def limits(self) -> Limits:
        about = {"base": self.base_digests, "scenes": len(self.plain)}
        if known := self._kept.find("base", about):
            return Limits(**known)
        base, real = self._base, to_tensor([each.image for each in self.plain])
        through = torch.cat([base.decode(base.latents_from(base.encode_images(some))) for some in real.split(_AT_ONCE)])
        drawn = sample(base, self.texts, seeds=range(len(self.texts)), batch_size=_AT_ONCE)
        error = (through.cpu() - real).square().mean((1, 2, 3))
        found = Limits(
            (-10 * error.log10()).mean().item(),
            named_share(self.texts, to_tensor(drawn)),
            *(conditions.consistencies(CONDITION, each, self._wanted) for each in (drawn, to_images(through))),
        )
        self._kept.keep("base", about, asdict(found))
        return found

    def data(self, base: Base, controlled: bool, pictures: int, reporter: Reporter = SILENT) -> Cache:
        """Return the training data of a method: plain scenes with CONDITION if `controlled`, else scenes in LOOK."""
        look, kinds = ("plain", [CONDITION]) if controlled else (LOOK, [])
        return cache_latents_and_text(rendered_scenes(pictures, 0, look, kinds, reporter), base, kinds)

    def measure(self, base: Base, trainable: TrainableMethod) -> dict[str, Any]:
        """Return a trained method's `loss`, `score`, `objects` and `frechet`, as in `quality.BenchmarkResult`."""
        shown = self.plain if trainable.takes_hint else self._styled
        hinted = {"attachment": trainable.hinted, "hints": {"hint": self._hints}} if trainable.takes_hint else {}
        drawn = sample(base, self.texts, seeds=range(len(self.texts)), batch_size=_AT_ONCE, **hinted)
        made, real = to_tensor(drawn), to_tensor([each.image for each in shown])
        score = None
        if trainable.takes_hint:
            with_ = conditions.consistencies(CONDITION, drawn, self._wanted)
            score = conditions.control_score(with_, self.limits.without, self.limits.reconstruction)
        features = [load_reader().read(each).features for each in (made, real)]
        return {
            "loss": self._loss(base, trainable, shown),
            "score": score,
            "objects": named_share(self.texts, made),
            "frechet": frechet_distance(*features),
        }

    @torch.no_grad()
    def _loss(self, base: Base, trainable: TrainableMethod, shown: list[Example]) -> float:
        """Return the loss at fixed noise levels, one for each scene, with the same noise for every method."""
        shown = shown[:_LOSS_SCENES]
        count, size = len(shown), base.defaults.resolution
        latents = base.latents_from(base.encode_images(to_tensor([each.image for each in shown])))
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
        alphas = base.scheduler.alphas_cumprod.to(base.device)
        times = ((torch.arange(count) + 0.5) / count * len(alphas)).long().to(base.device)
        inputs = Inputs(
            add_noise(latents, noise, times, alphas).to(base.dtype),
            times,
            self._hints[:count].to(base.device),
            base.unet_arguments(base.encode_prompts(self.texts[:count]), size, size),
        )
        answer = trainable.predict(inputs)
        return noise_prediction_loss(answer, noise, latents, times, alphas, base.prediction_type).mean().item()
