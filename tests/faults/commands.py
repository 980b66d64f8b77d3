"""The commands as the harness calls them: each in a place of its own, with small input."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

import scedit_cli
from scedit_cli.core.tuners import CSCTuner, SCTuner
from scedit_cli.core.weights import save_tuner
from tests import tiny
from tests.faults.shim import Shim
from tests.faults.small import EVERY, Small, load_once


@dataclass(frozen=True)
class Command:
    """
    Attributes:
        make: puts the input into a new place.
        arguments: of the program, for that place.
        output: what it makes there.
    """

    make: Callable[[Small, Path], None]
    arguments: Callable[[Small, Path], list[object]]
    output: tuple[str, ...]

    def made(self, small: Small, place: Path) -> Path:
        place.mkdir(parents=True)
        self.make(small, place)
        return place

    def work(self, small: Small, place: Path, shim: Shim | None = None) -> Callable[[], None]:
        command = small.program(*self.arguments(small, place), "--json")

        def work() -> None:
            if shim:
                shim.arm()
            command()

        return work

    def content(self, place: Path) -> dict[str, bytes]:
        """The files of the output but for what holds times, or pictures' last changes; where they are is left out."""
        found = {}
        for name in self.output:
            paths = [place / name] if (place / name).is_file() else (place / name).rglob("*")
            found |= {path.relative_to(place).as_posix(): path.read_bytes() for path in paths if path.is_file()}
        found = {name: data.replace(bytes(place), b"PLACE") for name, data in found.items()}
        if report := found.get("data/report.json"):  # with a digest of when the source was changed
            found["data/report.json"] = re.sub(rb'"files": "[0-9a-f]{32}"', b"", report)
        timed = ("contents.json", "log.jsonl", "state.json", "manifest.json", "README.md")
        return {name: data for name, data in found.items() if not name.endswith(timed)}


def _photos(small: Small, place: Path) -> None:
    for folder in ("photos", "edges"):
        (place / folder).mkdir()
        for number in range(5):
            noise(len(folder) + number, 70 + number, 90).save(place / folder / f"{number}.png")
    for number in range(5):
        (place / "photos" / f"{number}.txt").write_text(f"picture {number}")


def _dataset(small: Small, place: Path) -> None:
    ignored = shutil.ignore_patterns("cache", "conditions")
    shutil.copytree(small.prepared, place / "data", ignore=ignored)
    rows = [json.loads(line) for line in (place / "data" / "metadata.jsonl").read_text().splitlines()]
    lines = [json.dumps({"file_name": row["file_name"], "text": row["text"]}) + "\n" for row in rows]
    (place / "data" / "metadata.jsonl").write_text("".join(lines))


def tuners(small: Small, place: Path) -> None:
    """A CSC-Tuner and an SC-Tuner for the base."""
    base = load_once(small.base)
    about = {"base": base.name, "base_fingerprint": base.fingerprint}
    made = {
        "canny": CSCTuner.for_unet(base.unet, "canny", hint_channels=8, hint_width=0.25, down_ratio=0.25),
        "style": SCTuner.for_unet(base.unet, down_ratio=0.25),
    }
    for seed, (name, tuner) in enumerate(made.items()):
        save_tuner(tiny.trained(tuner, seed, 0.1), place / f"{name}.safetensors", about)
    noise(0, 64, 64).save(place / "canny.png")


def noise(seed: int, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _earlier(small: Small, place: Path) -> None:
    shutil.copy(files(scedit_cli) / "results" / "quality-scenes-cpu.json", place / "earlier.json")


def _begun(small: Small, place: Path) -> None:
    """A run that has one checkpoint."""
    shutil.copytree(small.finished, place / "run")
    (place / "run" / "tuner.safetensors").unlink()
    for path in (place / "run" / "checkpoints").iterdir():
        if path.name != f"step-{2 * EVERY:06d}":
            shutil.rmtree(path)
    for path in (place / "run" / "samples").glob("*.png"):
        if path.stem != f"step-{2 * EVERY:06d}":
            path.unlink()


COMMANDS = {
    "train": Command(_begun, lambda small, place: small.training(place / "run", "--resume"), ("run",)),
    "prepare": Command(
        _photos,
        lambda small, place: [
            *("prepare", place / "photos", "--cond", f"canny={place / 'edges'}", "--out", place / "data"),
            *("--size", "64", "--upscale", "--cache", "latents,text", "--base", small.base, "--shards", "3"),
        ],
        ("data",),
    ),
    "annotate": Command(
        _dataset, lambda small, place: ["annotate", place / "data", "--cond", "canny,color,blur"], ("data",)
    ),
    "generate": Command(
        tuners,
        lambda small, place: [
            *("generate", "--base", small.base, "--tuner", place / "canny.safetensors", "--out", place / "pictures"),
            *("--cond", f"canny={place / 'canny.png'}", "--num", "2", "--steps", "1", "--seed", "1", "--grid"),
        ],
        ("pictures",),
    ),
    "merge": Command(
        tuners,
        lambda small, place: [
            *("merge", f"{place / 'canny.safetensors'}:0.5", place / "style.safetensors"),
            *("--out", place / "combo.safetensors"),
        ],
        ("combo.safetensors",),
    ),
}
# `bench` takes long to measure; what it writes, it writes of earlier figures too.
SHOW = Command(
    _earlier,
    lambda small, place: [
        *("bench", "--show", place / "earlier.json", "--out", place / "shown.md", "--plot", place / "plot.png"),
        "--overwrite",
    ],
    ("shown.md", "plot.png"),
)
