"""The first checks of videos: settings that have no meaning for them, and the kind of the base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scedit_cli.generation.config import BaseConfig, GenerationConfig, OutputConfig
from scedit_cli.generation.filenames import Names, frames_folder, is_frame
from scedit_cli.inference.config import SamplerConfig
from scedit_cli.models.names import VIDEO_PIPELINES, no_video, pipeline_class
from scedit_cli.utils.errors import SceditError, shortened
from scedit_cli.utils.fields import is_a
from scedit_cli.utils.io import expanded
from scedit_cli.utils.names import EMBEDDED

_IMAGES_ALONE = {
    "base": (BaseConfig(), ("unet", "vae", "prediction", "vae_tiling", "offload", "compile")),
    "sampler": (SamplerConfig(), ("weighted", "reuse", "guidance_rescale", "guidance_span", "batch_size", "place")),
    "out": (OutputConfig(), ("grid",)),
}


def check_video(config: GenerationConfig) -> None:
    """Raise SceditError for settings that videos do not have, and for a base that is known to make none."""
    for part, (default, names) in _IMAGES_ALONE.items():
        for name in names:
            if getattr(getattr(config, part), name) != getattr(default, name):
                raise _images_alone(f"{part}.{name}", name)
    if config.init:
        for name, default in {"strength": None, "mask": None, "margins": (0, 0, 0, 0)}.items():
            value: Any = getattr(config.init, name)
            if (value is not None) if default is None else tuple(value) != default:
                raise _images_alone(f"init.{name}", f"init.{name}")
    if any(prompt.controls for prompt in config.prompts):
        raise _images_alone("prompts.controls", "controls")
    if config.base.loaded:
        if not is_a(config.base.loaded, "scedit_cli.models.video", "VideoBase"):
            raise no_video(config.base.loaded.name, "a pipeline for images")
        check_start(config, config.base.loaded.takes_image)
        return
    folder = expanded(config.base.model)
    if folder.is_dir():
        kind = pipeline_class(folder)
        if kind in VIDEO_PIPELINES:
            check_start(config, kind == "StableVideoDiffusionPipeline")
        elif kind is not None:
            raise no_video(config.base.model, f"a {kind}")
    elif folder.is_file() or config.base.model == EMBEDDED:
        raise no_video(config.base.model, "a single file" if folder.is_file() else "the embedded pipeline")


def check_frames_folders(names: Names, count: int, inputs: Sequence[Path]) -> None:
    """Raise SceditError where a folder that would hold the frames of a video file is there already, or, with
    `names.overwrite`, holds anything but frames, or one of the `inputs`."""
    if names.out.suffix and not names.is_file and not names.out.is_dir():
        hint = f"name a folder, or a file ending in {', '.join(names.formats)}"
        raise SceditError(f"out {names.out}: videos are not written as {names.out.suffix}", hint, "out")
    for video in names.places(1, [{}] * count) if names.is_file else []:
        folder = frames_folder(video)
        if folder.exists() and not names.overwrite:
            raise SceditError(f"out {folder} exists already", "name another file, or add `overwrite`", "out")
        others = [file.name for file in folder.iterdir() if not is_frame(file.name)] if folder.is_dir() else []
        if others or any(file.resolve().is_relative_to(folder.resolve()) for file in inputs):
            what = f"holds {shortened(others[0])}, which is no frame" if others else "is read from"
            raise SceditError(f"out {folder} {what}", "name another file: its frames replace that folder", "out")


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


def _images_alone(field: str, name: str) -> SceditError:
    return SceditError(f"{field} is for images, and has no effect on videos", "leave it out, or `frames`", field)
