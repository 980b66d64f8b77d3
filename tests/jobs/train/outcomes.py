"""Runs of two steps on the smallest base, kept with all that can be seen of them, and the data that they learn from."""

from __future__ import annotations

import io
import shutil
import tarfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch._dynamo.utils
from PIL import Image
from PIL.ImageOps import invert
from safetensors.torch import load_file

from scedit_cli.core.tuners import CSCTuner, Tuner
from scedit_cli.core.weights import load_tuner, save_tuner
from scedit_cli.data.dataset import open_dataset, read_rows, write_rows
from scedit_cli.data.scenes import write_scenes
from scedit_cli.data.shards import write_shards
from scedit_cli.jobs import train as job
from scedit_cli.models.base import Base, load_base
from scedit_cli.models.loading import quiet
from scedit_cli.recipe import Recipe
from scedit_cli.training import builders
from scedit_cli.utils.errors import SceditError, WorkFailed
from tests import tiny
from tests.jobs.train.conftest import files_in, log_of
from tests.recorder import Note, Progress, Recorder

PICTURES, SIDE = 6, 64
HUB_BASE = "me/base"
PLAIN = {
    "base.model": "{base}",
    "tuner.kind": "csc",
    "tuner.condition": "canny",
    "tuner.hint_channels": 16,
    "tuner.hint_width": 0.25,
    "data.path": "{data}",
    "data.caption_dropout": 0.0,
    "train.steps": 2,
    "train.batch_size": 2,
    "train.learning_rate": 0.01,
    "train.precision": "fp32",
    "train.checkpoint_every": 0,
    "samples.every": 0,
    "validation.pictures": 0,
}


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        error: what it ended with, where it failed.
        seen: how often the U-Net got how many latents at once while it learned.
        threads: how many read ahead then.
        settings: how float32 was multiplied then, and whether the U-Net's channels came last in memory.
        graphs: how many the compiler has captured.
    """

    recipe: Recipe
    folder: Path
    base: Base | None = None
    result: job.TrainResult | None = None
    error: SceditError | None = None
    notes: list[str] = field(default_factory=list)
    seen: Counter[int] = field(default_factory=Counter)
    threads: int = 0
    settings: tuple[str, bool] | None = None
    graphs: int = 0

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        assert self.error is None, self.error
        return load_file(self.folder / "tuner.safetensors")

    @cached_property
    def tuner(self) -> Tuner:
        return load_tuner(self.folder)

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        return log_of(self.folder)

    def logged(self, name: str) -> list[Any]:
        return [line[name] for line in self.log if name in line]

    @cached_property
    def files(self) -> set[str]:
        return files_in(self.folder)

    @property
    def grids(self) -> list[str]:
        return sorted(name for name in self.files if name.startswith("samples/step"))

    @property
    def checkpoints(self) -> list[str]:
        return sorted({name.split("/")[1] for name in self.files if name.startswith("checkpoints/")})

    def grid(self) -> Image.Image:
        return Image.open(self.folder / self.grids[-1])


class Runs:
    """Makes runs from changes to a plain recipe, each kind of run once."""

    def __init__(self, folder: Path) -> None:
        self.places = _data(folder)
        self._folder, self._made, self._bases = folder, {}, {}

    def __call__(self, changes: dict[str, Any]) -> Outcome:
        key = repr(sorted(changes.items()))
        if key not in self._made:
            self._made[key] = self._run(changes, self._folder / "runs" / str(len(self._made)))
        return self._made[key]

    def recipe(self, changes: dict[str, Any]) -> Recipe:
        sections: dict[str, dict[str, Any]] = {}
        for key, value in (PLAIN | changes).items():
            section, name = key.split(".")
            if value is not None:
                placed = value.format(**self.places) if isinstance(value, str) else value
                sections.setdefault(section, {})[name] = placed
        return Recipe.from_dict(sections)

    def load_once(self, model: str, **options: Any) -> Base:
        key = repr((model, sorted(options.items())))
        if key not in self._bases:
            self._bases[key] = load_base(model, **options)
        return self._bases[key]

    def _run(self, changes: dict[str, Any], folder: Path) -> Outcome:
        outcome = Outcome(self.recipe(changes), folder)
        is_changed = "base.quantize" in changes  # such a base is nobody else's
        load = load_base if is_changed else self.load_once

        def opened(*args: Any, **options: Any) -> Base:
            outcome.base = load(*args, **options)
            hooks.append(outcome.base.unet.register_forward_pre_hook(_counting(outcome.seen)))
            return outcome.base

        def hear(event: Note | Progress) -> None:
            if isinstance(event, Note):
                outcome.notes.append(event.text)
            elif event.stage == "training":
                names = [thread.name for thread in threading.enumerate() if thread not in of_others]
                outcome.threads = sum(name.startswith("ThreadPoolExecutor") for name in names)
                weight = outcome.base.unet.conv_in.weight
                last = weight.is_contiguous(memory_format=torch.channels_last)
                outcome.settings = torch.backends.cuda.matmul.fp32_precision, last

        hooks: list = []
        of_others = set(threading.enumerate())
        captured = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        before, builders.load_base = builders.load_base, opened
        try:
            outcome.result = job.train(outcome.recipe, out=folder, reporter=Recorder(hear))
        except (SceditError, WorkFailed) as error:
            outcome.error = error
        finally:
            builders.load_base = before
            for hook in hooks:
                hook.remove()
        outcome.graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"] - captured
        return outcome


def _counting(seen: Counter[int]) -> Callable:
    def count(module: torch.nn.Module, args: tuple) -> None:
        if torch.is_grad_enabled():
            seen[len(args[0])] += 1

    return count


def _data(folder: Path) -> dict[str, str]:
    """The folders, shards and tuner that recipes may name, by how `Runs.recipe` knows them."""
    for seed, name in enumerate(("base", "other")):
        with quiet():
            pipeline = tiny.pipeline(tiny.SMALLEST, seed)
            pipeline.save_pretrained(folder / name)
    fresh = CSCTuner.for_unet(pipeline.unet, "canny", hint_channels=16, hint_width=0.25)
    save_tuner(tiny.trained(fresh), folder / "trained.safetensors")
    kept = folder / "hub" / "models--me--base"
    (kept / "refs").mkdir(parents=True)
    for revision, name in (("main", "base"), ("v2", "other")):
        shutil.copytree(folder / name, kept / "snapshots" / f"commit-of-{revision}")
        (kept / "refs" / revision).write_text(f"commit-of-{revision}")

    data = folder / "data"
    write_scenes(data, PICTURES, size=SIDE, kinds=("canny", "color"))
    write_scenes(folder / "more", PICTURES, 100, size=SIDE, kinds=("canny",))
    blank = _copied(data, folder / "blank")
    masked = _copied(data, folder / "masked", mask_file_name="conditions/canny/{name}")
    heavy = _copied(data, folder / "heavy", weight=1e38)
    for file in (blank / "conditions" / "canny").iterdir():
        Image.new("RGB", (SIDE, SIDE)).save(file)
    shards = write_shards(open_dataset(data), folder / "shards", 2)[0].parent
    edged = lambda name, image: {f"{name}.png": image, f"{name}.edge.png": invert(image)}  # noqa: E731
    _write_tar(folder / "named.tar", data, edged)
    _write_tar(folder / "torn.tar", data, lambda name, image: {f"{name}.png": b"" if name.endswith("3") else image})
    places = {name: folder / name for name in ("base", "other", "more")}
    places |= {"data": data, "blank": blank, "masked": masked, "heavy": heavy, "shards": shards}
    places |= {"hub": folder / "hub", "named": folder / "named.tar", "torn": folder / "torn.tar"}
    places["trained"] = folder / "trained.safetensors"
    return {name: str(place) for name, place in places.items()}


def _copied(data: Path, folder: Path, **columns: Any) -> Path:
    """A copy of a dataset folder with a column more, the same in each row but for its picture's name."""
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns("cache"))
    rows = []
    for _, row in read_rows(folder):
        name = Path(row["file_name"]).name
        rows.append(row | {key: str(each).format(name=name) for key, each in columns.items()})
    write_rows(folder, rows)
    return folder


def _write_tar(place: Path, data: Path, files: Callable[[str, Image.Image], dict[str, Image.Image | bytes]]) -> None:
    """A shard of the images of a dataset folder, a sample holding the `files` of its name and picture."""
    with tarfile.open(place, "w") as tar:
        for picture in sorted((data / "images").iterdir()):
            for name, content in files(picture.stem, Image.open(picture)).items():
                if isinstance(content, Image.Image):
                    buffer = io.BytesIO()
                    content.save(buffer, "PNG")
                    content = buffer.getvalue()
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
