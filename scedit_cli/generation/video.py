"""Videos: their frames conditioned one by one, drawn by the pipeline's own call, measured, and written."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from scedit_cli.data.frames import frames_of
from scedit_cli.data.images import open_image
from scedit_cli.data.inputs import file_of, source_of
from scedit_cli.generation.conditioning import Conditioning
from scedit_cli.generation.config import GenerationConfig
from scedit_cli.generation.filenames import VIDEO_FORMATS, frames_folder
from scedit_cli.generation.image_jobs import ImageJob
from scedit_cli.generation.provenance import control_text, described, digests, encoded
from scedit_cli.generation.runner import ImageRunner
from scedit_cli.inference.config import Control
from scedit_cli.inference.sampler import STARVED, acting, to_images
from scedit_cli.inference.sizes import resized, size_for
from scedit_cli.models.base import finite
from scedit_cli.models.loading import quiet
from scedit_cli.models.schedulers import seed_noise
from scedit_cli.models.video import VideoBase
from scedit_cli.utils.errors import memory_told
from scedit_cli.utils.io import whole_folder
from scedit_cli.utils.reporter import SILENT, Reporter

_DECODED_AT_ONCE = 16  # frames, as AnimateDiff's pipeline does


class VideoFrames:
    """The frames of a configuration's controls.

    Attributes:
        config: the configuration with a control for each frame in place of each control, and no image to start from.
        jobs: for each job, a job per frame with that frame's controls.
    """

    def __init__(self, config: GenerationConfig, jobs: Sequence[ImageJob]) -> None:
        count = config.sampler.frames
        frames = {id(control): _split(control, count) for control in config.controls}
        flat = [each for control in config.controls for each in frames[id(control)]]
        self.config = replace(config, controls=flat, init=None)
        self.jobs = [
            [
                replace(job, controls=tuple(frames[id(each)][n % len(frames[id(each)])] for each in job.controls))
                for n in range(count)
            ]
            for job in jobs
        ]


def _split(control: Control, count: int) -> list[Control]:
    given = control.image if control.photo is None else control.photo
    return [replace(control, **{control.part(): frame}) for frame in frames_of(given, count)]


def sized_for(config: GenerationConfig, base: VideoBase, image: Image.Image | None) -> GenerationConfig:
    """Return the configuration with the size that the `image` to start from gives, where there is one."""
    if image is None:
        return config
    width, height = size_for(image.size, config.sampler.width, config.sampler.height, base, shrink=True)
    return replace(config, sampler=replace(config.sampler, width=width, height=height))


class VideoRunner(ImageRunner):
    """A base that draws videos.

    Args:
        asked: the configuration as it was given, with the videos of its controls whole.
        image: the image to start from, for a base that takes one.
    """

    def __init__(
        self, asked: GenerationConfig, base: VideoBase, conditioning: Conditioning, image: Image.Image | None
    ) -> None:
        config = conditioning.config
        super().__init__(replace(config, base=replace(config.base, vae_slicing=False)), base, conditioning)
        self.asked, self._image = asked, image
        self.fps = config.out.fps or base.fps

    @torch.no_grad()
    def draw_video(self, frames: Sequence[ImageJob], reporter: Reporter = SILENT) -> list[Image.Image]:
        """Draw the video of a job, given for each frame; `reporter` gets (denoising steps done, of how many).

        Raises:
            WorkFailed: the latents or frames are not finite, or memory ran out.
        """
        first, given, base, edits = frames[0], self.conditioning, self.base, self._attachment
        width, height = given.size(first)
        if edits:
            edits.scales = given.scales(first)
            edits.set_regions(given.regions(first))
            edits.set_hints({kind: _over_time(hint) for kind, hint in given.hints(frames).items()})
        act = acting(edits, given.spans(first), self.guidance)
        pipeline = base.pipeline(self.sampler.scheduler)
        order = pipeline.scheduler.order

        def after_step(pipeline: Any, step: int, timestep: Any, tensors: dict) -> dict:
            done, total = step + 1, pipeline.num_timesteps
            reporter.progress(done, total)
            if done < total:
                act(done // order / -(-total // order))
            return {}

        generator = torch.Generator().manual_seed(first.seed)
        options = {
            "width": width, "height": height, "num_frames": len(frames), "num_inference_steps": self.steps,
            "generator": generator, "output_type": "latent", "callback_on_step_end": after_step, "return_dict": False,
        }  # fmt: skip
        if base.takes_image:
            image = resized(self._image, (width, height), self.sampler.resize)
            options |= {"image": image, "max_guidance_scale": self.guidance.scale, "fps": self.fps}
            options["min_guidance_scale"] = min(1.0, self.guidance.scale)
        else:
            options |= {"prompt": first.prompt, "guidance_scale": self.guidance.scale}
            options["negative_prompt"] = first.negative
        try:
            with quiet(), memory_told(*STARVED):
                seed_noise(pipeline.scheduler, [generator])
                act(0.0)
                latents = pipeline(**options)
                latents = finite((latents if base.takes_image else latents[0]).float(), "the sampled latents")
                chunk = 1 if self.asked.base.vae_slicing else len(frames) if base.takes_image else _DECODED_AT_ONCE
                decoded = pipeline.decode_latents(latents, *([len(frames)] if base.takes_image else []), chunk)
                pixels = pipeline.video_processor.postprocess_video(decoded, output_type="pt")[0]
        finally:
            if edits:
                edits.set_hints(None)
        return to_images(finite(pixels, "the decoded frames"))

    def video_settings(self, job: ImageJob, first: ImageJob) -> dict[str, Any]:
        """Return the settings that the files of a video record; `first` is the job of its first frame."""
        init, controls = self.asked.init, job.controls
        inputs = {each.kind: each.image if each.photo is None else each.photo for each in controls}
        files = {kind: file_of(given) for kind, given in inputs.items()}
        texts = {each.kind: control_text(each) for each in controls if files[each.kind]}
        settings = super().settings(first)
        image = init and file_of(init.image)
        lost = [text for text in settings["in_memory"] if not text.endswith(" image")]
        lost += [f"{kind} frames" for kind, file in files.items() if not file]
        frames = [file_of(each.image if each.photo is None else each.photo) for each in self.config.controls]
        given = [file for file in (*frames, *files.values(), image) if file]
        return settings | {
            "conds": [texts[each.kind] for each in controls if each.photo is None and each.kind in texts],
            "conds_from": [texts[each.kind] for each in controls if each.photo is not None and each.kind in texts],
            "frames": self.sampler.frames,
            "fps": self.fps,
            "vae_slicing": self.asked.base.vae_slicing,
            "image": image and str(image.absolute()),
            "files": settings["files"] | digests(given),
            "in_memory": lost + (["image to start from"] if init and not image else []),
        }


def _over_time(hint: torch.Tensor) -> torch.Tensor:
    """Return the hint of a video, (1, C, F, H, W), of its frames' (F, C, H, W); one for all stays (1, C, H, W)."""
    return hint if len(hint) == 1 else hint.transpose(0, 1)[None]


def first_image(config: GenerationConfig) -> Image.Image | None:
    """Return the image that videos start from, if one is given."""
    return open_image(source_of(config.init.image)) if config.init else None


def flicker(values: Sequence[float]) -> float:
    """Return the mean absolute difference between the consistencies of neighbouring frames, from 0 to 1."""
    return sum(abs(one - other) for one, other in zip(values, values[1:])) / (len(values) - 1)


def write_frames(video: Path, frames: Sequence[Image.Image], settings: dict[str, Any], replace: bool) -> list[Path]:
    """Write the frames of the file `video` as PNG files with the video's settings in a folder beside it."""
    folder = frames_folder(video)
    names = [f"{number:04d}.png" for number in range(len(frames))]
    with whole_folder(folder, replace) as part:
        for name, frame in zip(names, frames, strict=True):
            (part / name).write_bytes(encoded(frame, ".png", settings))
    return [folder / name for name in names]


def animated(frames: Sequence[Image.Image], suffix: str, settings: dict[str, Any], fps: int) -> bytes:
    """Encode an animated WebP, with its settings as `encoded` keeps them, or a GIF, which has none; both repeat for
    ever."""
    buffer = io.BytesIO()
    kind = VIDEO_FORMATS[suffix.lower()]
    options = described(settings) | {"quality": 95} if kind == "WEBP" else {"comment": b"scedit generate"}
    # A GIF counts hundredths of a second, and players slow down below two of them.
    duration = 1000 / fps if kind == "WEBP" else max(20, 10 * round(100 / fps))
    with closing(buffer):
        frames[0].save(
            buffer, kind, save_all=True, append_images=frames[1:], duration=round(duration), loop=0, **options
        )
        return buffer.getvalue()
