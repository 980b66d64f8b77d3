"""Bases that were distilled to be sampled in a few steps without guidance, and what tells them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_SCHEDULERS = ("LCMScheduler", "TCDScheduler")  # which work for nothing else
_WORDS = ("turbo", "lightning", "lcm", "tcd", "dmd")  # in the names of those whose schedulers are ordinary ones
_HYPER = ("sd", "sdxl", "sd15", "sd1", "xl")  # after "hyper", which is a common word too
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def is_distilled(pipeline: DiffusionPipeline, names: Iterable[str]) -> bool:
    """Whether a pipeline is one: by a scheduler that is for them alone, a U-Net that is told the guidance, or one of
    its `names` together with trailing timesteps, as SDXL-Turbo and Lightning have them; other bases have those too."""
    if type(pipeline.scheduler).__name__ in _SCHEDULERS or pipeline.unet.config.time_cond_proj_dim:
        return True
    return _is_trailing(pipeline) and named_word(names) is not None


def distillation_doubt(pipeline: DiffusionPipeline, names: Iterable[str]) -> str | None:
    """Why a base that is not taken for a distilled one may still be one, as the end of a sentence."""
    if is_distilled(pipeline, names):
        return None
    if word := named_word(names):
        return f'has "{word}" in its name'
    return "has trailing timesteps, as distilled bases do" if _is_trailing(pipeline) else None


def named_word(names: Iterable[str]) -> str | None:
    """The word in one of the names that distilled bases are called by; "dreamshaperXL_v21TurboDPMSDE" has one."""
    for name in names:
        words = [word.lower() for word in _WORD.findall(name)]
        for word, following in zip(words, [*words[1:], ""], strict=True):
            if word.endswith(_WORDS) or (word == "hyper" and following in _HYPER) or word == "hypersd":
                return word
    return None


def _is_trailing(pipeline: DiffusionPipeline) -> bool:
    config = pipeline.scheduler.config
    return config.get("timestep_spacing") == "trailing" and not config.get("rescale_betas_zero_snr")
