"""The frames of a video that a caller passes: a folder of images, an animated image in a file or in memory, or a video
file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from scedit_cli.data.formats import is_readable, suffix_of
from scedit_cli.data.images import image_size, reading
from scedit_cli.data.inputs import check_image_input, source_of
from scedit_cli.utils.errors import SceditError, in_field, not_installed
from scedit_cli.utils.io import expanded

if TYPE_CHECKING:
    from scedit_cli.data.inputs import ImageInput

_VIDEOS = frozenset((".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi"))


def check_frames(given: ImageInput, count: int, field: str) -> None:
    """Check that `given` has one frame, which counts for all, or at least `count`; files by their headers alone.

    Raises:
        SceditError: it has fewer, a frame is no image, or it is a video and imageio's ffmpeg is not installed.
    """
    path = expanded(given) if isinstance(given, str | os.PathLike) else None
    with in_field(field, "check the path"):
        if path and path.is_dir():
            files = _files(path)
            _check_count(len(files), count, f"{path} holds {len(files)} images")
            for file in files[:count]:
                image_size(file)
        elif path and suffix_of(path.name) in _VIDEOS:
            if not path.is_file():
                raise SceditError(f"{path} does not exist")
            _reader()
        else:
            check_image_input(given, field)
            with _animation(source_of(given)) as opened:
                if (held := _held(opened)) > 1:
                    _check_count(held, count, f"{path or 'the image'} holds {held} frames")


def frames_of(given: ImageInput, count: int) -> list[ImageInput]:
    """Return the first `count` frames of a checked input, or a single one, which counts for all: the files of a folder
    in the order of the numbers in their names, or images in memory.

    Raises:
        SceditError: the frames cannot be read, or a video has fewer.
    """
    if not isinstance(given, str | os.PathLike | Image.Image):
        return [given]
    source = source_of(given)
    if isinstance(source, Path) and source.is_dir():
        files = _files(source)
        return list(files[:count])
    if isinstance(source, Path) and suffix_of(source.name) in _VIDEOS:
        frames = list(islice(_video_frames(source), count))
        _check_count(len(frames), count, f"{source} holds {len(frames)} frames")
        return frames
    with _animation(source) as opened:
        if _held(opened) == 1:
            return [given]
        frames = []
        for number in range(count):
            opened.seek(number)
            frames.append(opened.convert("RGBA" if opened.has_transparency_data else "RGB"))
        return frames


@contextmanager
def _animation(source: Path | Image.Image) -> Iterator[Image.Image]:
    """Open an image with all its frames; one in memory is itself, and is left at the frame at which it was."""
    with reading(source) as opened:
        if not isinstance(source, Image.Image):
            yield opened
            return
        at = source.tell()
        try:
            yield source
        finally:
            source.seek(at)


def _held(opened: Image.Image) -> int:
    """Return the number of an image's frames. The further images of an MPO, which opens as a JPEG from its file, are
    none."""
    return 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)


def _files(folder: Path) -> list[Path]:
    files = (file for file in folder.iterdir() if is_readable(file.name) and not file.name.startswith("."))
    return sorted(files, key=lambda file: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", file.name)])


def _check_count(held: int, count: int, what: str) -> None:
    if held < count and held != 1:
        raise SceditError(f"{what}, and the video has {count}", "give a frame for each, or one image for all")


def _reader():
    try:
        import imageio_ffmpeg
    except ImportError:
        raise not_installed("a video", "imageio_ffmpeg", "video", "give a folder of frames or a GIF") from None
    return imageio_ffmpeg.read_frames


def _video_frames(path: Path) -> Iterator[Image.Image]:
    frames = _reader()(str(path), pix_fmt="rgb24")
    try:
        size = next(frames)["size"]
        for data in frames:
            yield Image.frombytes("RGB", size, data)
    except (OSError, RuntimeError, KeyError, IndexError, ValueError) as error:
        raise SceditError(f"{path} is no readable video", "save it as MP4, or as a folder of frames") from error
    finally:
        frames.close()
