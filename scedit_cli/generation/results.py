"""The results of `generate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from scedit_cli.data.images import open_image

_NAMES = ("seed", "prompt", "scores", "measures", "scales")


@dataclass(frozen=True)
class GeneratedImage:
    """A generated image.

    Attributes:
        seed, prompt: what it was drawn from.
        path: its file; None where nothing is written.
        scores: its consistencies in [0, 1] by condition; empty unless it was scored.
        measures: further figures of each condition, in their own units.
        scales: the α that were set by name.
    """

    seed: int
    prompt: str
    path: Path | None = None
    scores: dict[str, float] = field(default_factory=dict)
    measures: dict[str, dict[str, float]] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    _image: Image.Image | None = field(default=None, repr=False, compare=False)

    @property
    def image(self) -> Image.Image:
        """The image in mode RGB; one that is written is read from its file."""
        return open_image(self.path) if self._image is None else self._image

    def document(self) -> dict:
        """Return the fields for programs."""
        return {"path": self.path and str(self.path), **{name: getattr(self, name) for name in _NAMES}}


@dataclass(frozen=True)
class GeneratedVideo(GeneratedImage):
    """A generated video: its scores and measures are the means over its frames, its image is the first frame.

    Attributes:
        frame_files: the files of the frames; empty where nothing is written.
        frame_scores: the consistency of each frame by condition.
        flicker: the mean absolute difference between the consistencies of neighbouring frames, by condition.
    """

    frame_files: tuple[Path, ...] = ()
    frame_scores: dict[str, list[float]] = field(default_factory=dict)
    flicker: dict[str, float] = field(default_factory=dict)
    _frames: tuple[Image.Image, ...] = field(default=(), repr=False, compare=False)

    @property
    def image(self) -> Image.Image:
        return self.frames[0]

    @property
    def frames(self) -> list[Image.Image]:
        """The frames in mode RGB; those that are written are read from their files."""
        return list(self._frames) or [open_image(file) for file in self.frame_files]

    def document(self) -> dict:
        more = {"frames": [str(file) for file in self.frame_files], "frame_scores": self.frame_scores}
        return super().document() | more | {"flicker": self.flicker}


@dataclass(frozen=True)
class GenerateResult:
    """The generated images, with base, device and duration in seconds; `conditions` are the condition images of the
    first image, by kind, as its tuners saw them."""

    images: list[GeneratedImage]
    grid: Path | None
    base: str
    seconds: float
    device: str = "cpu"
    conditions: dict[str, Image.Image] = field(default_factory=dict)

    def document(self) -> dict:
        """Return the document for programs."""
        return {
            "images": [image.document() for image in self.images],
            "grid": str(self.grid) if self.grid else None,
            "base": self.base,
            "device": self.device,
            "seconds": round(self.seconds, 3),
        }

    def summary(self) -> list[tuple[str, str]]:
        """Return the rows (file, facts) that a person reads."""
        rows = []
        for image in self.images:
            scales = [f"{name} at {scale:g}" for name, scale in image.scales.items()]
            scores = [f"{kind} {score:z.3f}" for kind, score in image.scores.items()]
            if isinstance(image, GeneratedVideo):
                scores += [f"{kind} flicker {value:z.3f}" for kind, value in image.flicker.items()]
            facts = [f"seed {image.seed}", image.prompt, *scales, *scores]
            rows.append((str(image.path), " · ".join(fact for fact in facts if fact)))
        return rows + ([(str(self.grid), "all of them")] if self.grid else [])
