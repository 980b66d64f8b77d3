"""Recognition of bases that were distilled to be sampled in a few steps without guidance."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_SCHEDULERS = ("LCMScheduler", "TCDScheduler")  # they work for distilled bases only
_WORDS = ("turbo", "lightning", "lcm", "tcd", "dmd")  # in the names of distilled bases with ordinary schedulers
_HYPER = ("sd", "sdxl", "sd15", "sd1", "xl")  # must follow "hyper", which is a common word too
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def is_distilled(pipeline: DiffusionPipeline, names: Iterable[str]) -> bool:
    """Return whether a pipeline is a distilled base: its scheduler is for those only, its U-Net takes the guidance as
    an input, or one of its `names` says so and its timesteps are trailing, as SDXL-Turbo's, Lightning's and some other
    bases' are."""
    if type(pipeline.scheduler).__name__ in _SCHEDULERS or pipeline.unet.config.time_cond_proj_dim:
        return True
    return _is_trailing(pipeline) and named_word(names) is not None


def distillation_doubt(pipeline: DiffusionPipeline, names: Iterable[str]) -> str | None:
    """Return why a base that is not taken for a distilled one may still be one, as the end of a sentence; else None."""
    if is_distilled(pipeline, names):
        return None
    if word := named_word(names):
        return f'has "{word}" in its name'
    return "has trailing timesteps, as distilled bases do" if _is_trailing(pipeline) else None


def named_word(names: Iterable[str]) -> str | None:
    """Return the word in one of the names that marks a distilled base: "dreamshaperXL_v21TurboDPMSDE" -> "turbo"."""
    for name in names:
        words = [word.lower() for word in _WORD.findall(name)]
        for word, following in zip(words, [*words[1:], ""], strict=True):
            if word.endswith(_WORDS) or (word == "hyper" and following in _HYPER) or word == "hypersd":
                return word
    return None


def _is_trailing(pipeline: DiffusionPipeline) -> bool:
    config = pipeline.scheduler.config
    return config.get("timestep_spacing") == "trailing" and not config.get("rescale_betas_zero_snr")
