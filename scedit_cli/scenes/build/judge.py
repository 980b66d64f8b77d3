"""What the embedded base draws from captions alone, beside the renders, what its autoencoder leaves of them, and what
it draws when it starts from noised renders, which tells at which noise levels it loses what.

`python -m scedit_cli.scenes.build.judge --scenes 1024` prints a table; `--base FOLDER` measures another base
of the same layout.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scedit_cli.inference.denoising import Denoiser
from scedit_cli.inference.frechet import frechet_distance
from scedit_cli.inference.sampler import sample, to_tensor
from scedit_cli.models.base import Base, load_base
from scedit_cli.scenes.captions import shares_attribute
from scedit_cli.scenes.reader import load_reader
from scedit_cli.training.datasets import held_out_scenes
from scedit_cli.training.evaluation import found_share
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.names import EMBEDDED

_AT_ONCE = 32  # images
_STEPS, GUIDANCE = 20, 2.0  # the embedded base's, which a folder does not name
OTHERS = "other scenes through the autoencoder"
_FROM = (199, 349, 599)  # timesteps of 1000, with 4, 7 and 12 steps left; the noise deviates by 0.53, 0.77 and 0.96


@dataclass(frozen=True)
class DrawnQuality:
    """How well images show their captions' scenes.

    Attributes:
        objects: the share of the objects named by the captions that the reader finds.
        confusable: the same for captions that name two objects of one colour or one shape.
        frechet: the Fréchet distance to the renders, on the reader's features.
        gradients: the energy of the images' gradients as a share of the renders'.
    """

    objects: float
    confusable: float
    frechet: float
    gradients: float


@torch.no_grad()
def judged(base: Base, scenes: int, guidance: float = GUIDANCE) -> dict[str, DrawnQuality]:
    """Measure renders of `scenes` held-out scenes, what the autoencoder leaves of them and of as many others, what
    `base` draws from the renders with some noise, and what it draws from their captions alone.

    The others are what a perfect U-Net would draw: their distance to the renders is the least that can be asked for.
    """
    shown, others = (held_out_scenes(scenes, first, (), base.defaults.resolution) for first in (0, scenes))
    texts, renders = [each.text for each in shown], to_tensor([each.image for each in shown])
    latents = _latents(base, renders)
    images = {"renders": renders, "through the autoencoder": _decoded(base, latents)}
    images[OTHERS] = _decoded(base, _latents(base, to_tensor([each.image for each in others])))
    for timestep in _FROM:
        images[f"drawn from {timestep} on"] = _decoded(base, redrawn(base, texts, latents, timestep, guidance))
    drawn = sample(base, texts, steps=_STEPS, guidance=guidance, seeds=range(scenes), batch_size=_AT_ONCE)
    images["drawn"] = to_tensor(drawn)
    readings = {name: load_reader().read(each) for name, each in images.items()}
    found = {}
    for name, reading in readings.items():
        named = [each.text for each in others] if name == OTHERS else texts
        confusable = [at for at, text in enumerate(named) if shares_attribute(text)]
        objects = reading.objects()
        found[name] = DrawnQuality(
            found_share(named, objects),
            found_share([named[at] for at in confusable], [objects[at] for at in confusable]),
            frechet_distance(reading.features, readings["renders"].features),
            _gradients(images[name]) / _gradients(renders),
        )
    return found


@torch.no_grad()
def redrawn(base: Base, texts: Sequence[str], latents: Tensor, timestep: int, guidance: float) -> Tensor:
    """Return the latents (N, C, h, w) that `base` draws when it starts from `latents` with the noise of `timestep`."""
    denoiser = Denoiser(base)
    scheduler = denoiser.pipeline.scheduler
    scheduler.set_timesteps(_STEPS)
    context, empty = (torch.cat([denoiser.encode(text, "")["prompt_embeds"] for text in of]) for of in (texts, [""]))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    noised = scheduler.add_noise(latents, noise, torch.tensor([timestep] * len(latents)))
    found = []
    for some, of_some in zip(noised.split(_AT_ONCE), context.split(_AT_ONCE), strict=True):
        both = torch.cat([empty.expand_as(of_some), of_some])
        for step in [each for each in scheduler.timesteps.tolist() if each <= timestep]:
            plain, led = base.unet(torch.cat([some, some]), step, both).sample.chunk(2)
            some = scheduler.step(plain + guidance * (led - plain), step, some).prev_sample
        found.append(some)
    return torch.cat(found)


def _latents(base: Base, images: Tensor) -> Tensor:
    return torch.cat([base.latents_from(base.encode_images(some)) for some in images.split(_AT_ONCE)])


def _decoded(base: Base, latents: Tensor) -> Tensor:
    return torch.cat([base.decode(some) for some in latents.split(_AT_ONCE)])


def _gradients(images: Tensor) -> float:
    """Return the mean energy of the differences between neighbouring pixels."""
    return sum(images.diff(dim=axis).square().mean().item() for axis in (-2, -1))


def as_markdown(found: dict[str, DrawnQuality]) -> str:
    lines = ["| | named objects | of one colour or shape | Fréchet distance | energy of gradients |"]
    lines += ["| --- | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {name} | {each.objects:.3f} | {each.confusable:.3f} | {each.frechet:.1f} | {each.gradients:.2f} |"
        for name, each in found.items()
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scedit_cli.scenes.build.judge", description=__doc__)
    parser.add_argument("--scenes", type=int, default=256, help="held-out scenes, at least 16; default %(default)s")
    parser.add_argument("--base", default=EMBEDDED, help="a base of the embedded world's layout")
    parser.add_argument("--guidance", type=float, default=GUIDANCE, help="default %(default)s; 1 is none")
    options = parser.parse_args(arguments)
    if options.scenes < 16:
        parser.error("--scenes: take at least 16, of which some have objects of one colour or shape")
    try:
        print(as_markdown(judged(load_base(options.base), options.scenes, options.guidance)))
    except SceditError as error:
        parser.error(f"{error.message}: {error.hint}" if error.hint else error.message)
    return 0


if __name__ == "__main__":
    sys.exit(main())
