"""The first checks of videos: settings that have no meaning for them, and the kind of the base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scedit_cli.generation.config import BaseConfig, GenerationConfig, OutputConfig
from scedit_cli.generation.filenames import Names, frames_folder, frames_in_the_way
from scedit_cli.inference.config import SamplerConfig
from scedit_cli.models.names import VIDEO_PIPELINES, no_video, pipeline_class
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.fields import is_a
from scedit_cli.utils.io import expanded
from scedit_cli.utils.names import EMBEDDED

_IMAGES_ALONE = {
    "base": (BaseConfig(), ("unet", "vae", "prediction", "vae_tiling", "offload", "compile")),
    "sampler": (
        SamplerConfig(),
        ("weighted", "reuse", "control_guidance", "guidance_rescale", "guidance_span", "batch_size", "place"),
    ),
    "out": (OutputConfig(), ("grid",)),
}


def check_video(config: GenerationConfig) -> None:
    """Raise SceditError for settings that videos do not have, and for a base that is known to make none."""
    for part, (default, names) in _IMAGES_ALONE.items():
        for name in names:
            if getattr(getattr(config, part), name) != getattr(default, name):
                raise _images_alone(f"{part}.{name}")
    if config.init:
        for name, default in {"strength": None, "mask": None, "margins": (0, 0, 0, 0)}.items():
            value: Any = getattr(config.init, name)
            if (value is not None) if default is None else tuple(value) != default:
                raise _images_alone(f"init.{name}")
    if any(prompt.controls for prompt in config.prompts):
        raise _images_alone("prompts.controls")
    if config.base.loaded:
        if not is_a(config.base.loaded, "scedit_cli.models.video", "VideoBase"):
            raise no_video(config.base.loaded.name, "a pipeline for images")
        check_start(config, config.base.loaded.takes_image)
        return
    if config.base.model == EMBEDDED:
        raise no_video(EMBEDDED, "the embedded pipeline makes images alone")
    folder = expanded(config.base.model)
    if folder.is_dir():
        kind = pipeline_class(folder)
        if kind in VIDEO_PIPELINES:
            check_start(config, kind == "StableVideoDiffusionPipeline")
        elif kind is not None:
            raise no_video(config.base.model, f"a {kind}")
    elif folder.is_file():
        raise no_video(config.base.model, "a single file")


def check_frames_folders(names: Names, count: int, inputs: Sequence[Path]) -> None:
    """Raise SceditError where a folder that would hold the frames of a video file is there already, or, with
    `names.overwrite`, holds anything but frames, or one of the `inputs`."""
    if names.out.suffix and not names.is_file and not names.out.is_dir():
        hint = f"name a folder, or a file ending in {', '.join(names.formats)}"
        raise SceditError(f"out {names.out}: videos are not written as {names.out.suffix}", hint, "out")
    for video in names.places(1, [{}] * count) if names.is_file else []:
        if why := frames_in_the_way(video, names.overwrite, inputs):
            more = ": its frames replace that folder" if names.overwrite else ", or add `overwrite`"
            raise SceditError(f"out {frames_folder(video)} {why}", f"name another file{more}", "out")


def check_start(config: GenerationConfig, takes_image: bool) -> None:
    """Raise SceditError unless the base is given what its videos start from: an image, or texts."""
    name = config.base.loaded.name if config.base.loaded else config.base.model
    if not takes_image:
        if config.init:
            message = f"init: base {name} makes videos from texts, and takes no image to start from"
            raise SceditError(message, "leave it out, or name a StableVideoDiffusionPipeline with `base`", "init")
        return
    if not config.init:
        raise SceditError(f"base {name} makes videos from an image, and none is given", "add `init=IMAGE`", "init")
    texts = {"prompts": [prompt.text for prompt in config.prompts], "sampler.negative": [config.sampler.negative]}
    for field, given in texts.items():
        if any(given):
            message = f"{field}: base {name} makes videos from an image, and reads no texts"
            raise SceditError(message, "leave it out", field)


def _images_alone(field: str) -> SceditError:
    return SceditError(f"{field} is for images, and has no effect on videos", "leave it out, or `frames`", field)
