"""The evaluation of tuners on images with conditions: drawn with and without tuners, and reconstructed."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from scedit_cli.conditions.consistency.measure import Figures
from scedit_cli.conditions.protocols import Protocol
from scedit_cli.core.attach import Attachment, attach
from scedit_cli.core.tuners import Tuner
from scedit_cli.data.cache import component_digests
from scedit_cli.data.evaluation_set import EvaluationSet
from scedit_cli.data.image_cache import ImageCache, key_of
from scedit_cli.inference.denoising import Guidance
from scedit_cli.inference.sampler import check_size, sample, to_hints, to_images, to_tensor
from scedit_cli.inference.sampling_options import SamplingOptions
from scedit_cli.models.base import Base
from scedit_cli.utils.distributed import Share
from scedit_cli.utils.reporter import SILENT, Reporter
from scedit_cli.utils.result_cache import ResultCache
from scedit_cli.utils.statistics import Estimate, estimate

PIXELS_AT_ONCE = 2**19  # drawn together: 32 images of 128², 2 of 512²
_LARGEST_BATCH = 32


@dataclass(frozen=True)
class Arm:
    """Images made in one way: drawn with these tuners, which are on the base's device, and scales, or, as
    "reconstruction", passed through the autoencoder."""

    name: str
    tuners: tuple[Tuner, ...] = ()
    scales: tuple[float, ...] = ()


WITHOUT, RECONSTRUCTION = Arm("without"), Arm("reconstruction")


@dataclass
class Evaluated:
    """The measures of all images: the condition figures by arm and kind, and further values by arm and name (N, K)."""

    figures: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    further: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class ConditionScore:
    """The control over one condition. `with_`, `against`, `without` and `reconstruction` are the protocol's figure of
    images drawn with the tuners, with the ones that they are compared with, without any, and passed through the
    autoencoder. `score` is (with - without) / (reconstruction - without), None where the reconstruction is no better
    than images without tuners; `difference` is with - against, of the same images and noise."""

    with_: Estimate
    without: Estimate
    reconstruction: Estimate
    score: Estimate
    images: int
    against: Estimate | None = None
    difference: Estimate | None = None
    score_difference: Estimate | None = None

    def figures(self) -> dict[str, float | int | None]:
        """Return plain numbers by name, each estimate followed by its interval as NAME_low and NAME_high."""
        found: dict[str, float | int | None] = {}
        for name in ("score", "with_", "without", "reconstruction", "against", "difference", "score_difference"):
            if (each := getattr(self, name)) is not None:
                name = name.rstrip("_")
                found |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
        return found | {"images": self.images}


class Evaluator:
    """A drawer and measurer of the images of a set, batch by batch.

    What a batch depends on is its key in the caches, so that a stopped evaluation resumes, and images without tuners
    and reconstructions are drawn once for all tuners. The batches are the same for any number of processes.

    Args:
        base: the base.
        images: the set; its kinds are those measured.
        protocol: the figures.
        cache: the cache of images.
        known: the cache of figures.
        share: this process's part of the batches.
        edits: an attachment that is on the base already and that all arms use, with scales of 0 for those without
            tuners; images are not cached.
        extras: further measures by name: functions from images and captions to (B, K) values.
    """

    def __init__(
        self,
        base: Base,
        images: EvaluationSet,
        protocol: Protocol,
        sampling: SamplingOptions = SamplingOptions(),
        *,
        cache: ImageCache | None = None,
        known: ResultCache | None = None,
        share: Share = Share(),
        edits: Attachment | None = None,
        extras: Mapping[str, Callable[[Sequence[Image.Image], Sequence[str]], np.ndarray]] | None = None,
    ) -> None:
        self.base, self.images, self.protocol, self.sampling = base, images, protocol, sampling
        self.cache, self.known, self.share = cache or ImageCache(None), known or ResultCache(None), share
        self.steps = sampling.steps or base.defaults.steps
        scale = base.defaults.guidance if sampling.guidance is None else sampling.guidance
        self.guidance = Guidance(scale, control=sampling.control_guidance)
        self._edits, self._extras = edits, extras or {}
        self._digests: dict[Tuner, str] = {}  # of tuners, which do not change between two batches
        self._about_base = None if edits else self._describe_base()
        for (width, height), item in zip(images.sizes, images.items, strict=True):
            check_size(base, height, width, str(item.image))

    @property
    def batches(self) -> list[list[int]]:
        """The places of the images of each batch; a batch has images of one size."""
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for place, size in enumerate(self.images.sizes):
            by_size[size].append(place)
        found = []
        for (width, height), places in by_size.items():
            most = self.sampling.batch_size or min(_LARGEST_BATCH, max(1, PIXELS_AT_ONCE // (width * height)))
            found += [places[at : at + most] for at in range(0, len(places), most)]
        return found

    def run(
        self,
        arms: Sequence[Arm],
        reporter: Reporter = SILENT,
        on_batch: Callable[[str, list[int], list[Image.Image]], None] | None = None,
    ) -> Evaluated:
        """Return the measures of all images drawn by each arm, in all processes.

        Args:
            reporter: gets (denoising steps done, of how many), by this process's share.
            on_batch: called with the arm's name, the places and the images of each batch of this process.
        """
        mine = list(self.share.of(self.batches))
        parts, rows = len(mine) * len(arms), []
        for number, places in enumerate(mine):
            for index, arm in enumerate(arms):
                part = reporter.part(number * len(arms) + index, parts)
                figures, further = self._measured(arm, places, part, on_batch)
                rows.append((arm.name, places, figures, further))
                part.progress(self.steps, self.steps)
        return self._together(self.share.gathered(rows))

    def drawn(self, arm: Arm, places: Sequence[int], reporter: Reporter = SILENT) -> list[Image.Image]:
        """Return the images that an arm draws at these places, one of `batches`, from the cache where it has them."""
        key = self._key(arm, places)
        found = self.cache.find(key, len(places)) if key else None
        if found is None:
            if arm.name == RECONSTRUCTION.name:
                latents = self.base.latents_from(self.base.encode_images(to_tensor(self.images.images(places))))
                with torch.no_grad():
                    found = to_images(self.base.decode(latents))
            else:
                found = self._sampled(arm, places, reporter)
            if key:
                self.cache.keep(key, found)
        return found

    def _sampled(self, arm: Arm, places: Sequence[int], reporter: Reporter) -> list[Image.Image]:
        width, height = self.images.sizes[places[0]]
        attached = self._edits.tuners if self._edits else arm.tuners
        kinds = [tuner.condition for tuner in attached if tuner.condition]
        hints = {kind: to_hints(kind, self.images.conditions(kind, places)) for kind in kinds}
        if self._edits:
            before, self._edits.scales = self._edits.scales, arm.scales or 0.0
        attachment = nullcontext(self._edits) if self._edits or not arm.tuners else attach(
            self.base.unet, arm.tuners, arm.scales
        )
        with attachment as edits:
            try:
                return sample(
                    self.base,
                    [self.images.items[place].text for place in places],
                    attachment=edits,
                    hints=hints or None,
                    seeds=[self.sampling.seed + self.images.numbers[place] for place in places],
                    steps=self.steps,
                    guidance=self.guidance,
                    height=height,
                    width=width,
                    batch_size=len(places),
                    scheduler=self.sampling.scheduler,
                    reporter=reporter,
                )
            finally:
                if self._edits:
                    self._edits.scales = before

    def _measured(
        self,
        arm: Arm,
        places: Sequence[int],
        reporter: Reporter,
        on_batch: Callable[[str, list[int], list[Image.Image]], None] | None,
    ) -> tuple[dict[str, list[Figures]], dict[str, np.ndarray]]:
        """Return the batch's figures by kind and its further values by name."""
        images: list[Image.Image] | None = None
        figures, further = {}, {}
        for kind in self.images.specs:
            makers = self.images.makers(kind, places)
            about = {
                "images": self._key(arm, places), "protocol": self.protocol.name, "makers": [str(m) for m in makers],
                "conditions": [self.images.key(kind, place) for place in places],
            }  # fmt: skip
            values = self.known.find(f"figures-{kind}", about) if about["images"] else None
            if values is None:
                images = images or self.drawn(arm, places, reporter)
                wanted, device = self.images.conditions(kind, places), self.images.device
                values = self.protocol.measured(makers, images, wanted, device)
                if about["images"]:
                    self.known.keep(f"figures-{kind}", about, values)
            figures[kind] = values
        if self._extras or on_batch:
            images = images or self.drawn(arm, places, reporter)
            texts = [self.images.items[place].text for place in places]
            further = {name: measure(images, texts) for name, measure in self._extras.items()}
        if on_batch:
            on_batch(arm.name, list(places), images)
        return figures, further

    def _together(self, rows: Sequence[tuple[str, list[int], dict, dict]]) -> Evaluated:
        """Return the rows of all processes in the order of the images."""
        found: dict[str, dict[str, dict[int, Any]]] = defaultdict(lambda: defaultdict(dict))
        further: dict[str, dict[str, dict[int, Any]]] = defaultdict(lambda: defaultdict(dict))
        for arm, places, figures, more in rows:
            for into, values in ((found, figures), (further, more)):
                for name, each in values.items():
                    into[arm][name] |= dict(zip(places, each, strict=True))
        ordered = {
            arm: {kind: [each[place] for place in sorted(each)] for kind, each in kinds.items()}
            for arm, kinds in found.items()
        }
        stacked = {
            arm: {name: np.stack([each[place] for place in sorted(each)]) for name, each in names.items()}
            for arm, names in further.items()
        }
        return Evaluated(ordered, stacked)

    def _key(self, arm: Arm, places: Sequence[int]) -> str | None:
        """Return the key of a batch of images; None where nothing is cached."""
        if self._about_base is None:
            return None
        items = [self.images.items[place] for place in places]
        if arm.name == RECONSTRUCTION.name:
            return key_of(base=self._about_base["vae"], reconstructed=[self.images.digests[place] for place in places])
        about = self._about_base | {
            "steps": self.steps, "guidance": self.guidance.scale, "scheduler": self.sampling.scheduler,
            "size": self.images.sizes[places[0]], "texts": [item.text for item in items],
            "seeds": [self.sampling.seed + self.images.numbers[place] for place in places],
        }  # fmt: skip
        if arm.tuners:
            about["tuners"] = list(zip(map(self._digest, arm.tuners), arm.scales, strict=True))
            kinds = [tuner.condition for tuner in arm.tuners if tuner.condition]
            about["hints"] = [[self.images.key(kind, place) for place in places] for kind in kinds]
            if kinds and self.guidance.control != 1:
                about["control_guidance"] = self.guidance.control
        return key_of(**about)

    def _digest(self, tuner: Tuner) -> str:
        if tuner not in self._digests:
            self._digests[tuner] = _digest(tuner)
        return self._digests[tuner]

    def _describe_base(self) -> dict[str, Any]:
        schedule = self.base.scheduler
        return component_digests(self.base) | {
            "dtype": str(self.base.dtype), "device": self.base.device.type,
            "schedule": f"{type(schedule).__name__} {sorted(schedule.config.items(), key=str)}",
        }  # fmt: skip


def scored(protocol: Protocol, kind: str, figures: Mapping[str, Mapping[str, Sequence[Figures]]]) -> ConditionScore:
    """Return the control over conditions of `kind`, with bootstrap intervals, from the figures by arm: "with",
    "without", "reconstruction" and perhaps "against"."""
    arms = ["with", "without", "reconstruction", *(["against"] if "against" in figures else [])]
    values = [protocol.values(kind, figures[arm][kind]) for arm in arms]
    width, together = values[0].shape[1], np.concatenate(values, 1)
    sign = -1 if kind in protocol.less_is_better else 1

    def of(means: np.ndarray) -> list[np.ndarray]:
        return [protocol.summarised(kind, means[:, at * width : (at + 1) * width]) for at in range(len(arms))]

    def score(means: np.ndarray, arm: int = 0) -> np.ndarray:
        each = of(means)
        reachable = each[2] - each[1]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(sign * reachable > 0, (each[arm] - each[1]) / reachable, np.nan)

    plain = [estimate(together, lambda means, at=at: of(means)[at]) for at in range(len(arms))]
    found = ConditionScore(*plain[:3], estimate(together, score), len(together))
    if "against" not in figures:
        return found
    difference = estimate(together, lambda means: of(means)[0] - of(means)[3])
    of_scores = estimate(together, lambda means: score(means) - score(means, 3))
    return replace(found, against=plain[3], difference=difference, score_difference=of_scores)


def _digest(tuner: Tuner) -> str:
    """Return hex digits of all weights of a tuner, and of its condition."""
    digest = hashlib.sha256(str(tuner.condition).encode())
    for name, weight in sorted(tuner.state_dict().items()):
        plain = weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode() + plain.tobytes())
    return digest.hexdigest()[:32]
