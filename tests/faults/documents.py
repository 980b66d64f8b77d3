"""The commands that the documents and the help show, and a small world in which each of them has what it names."""

from __future__ import annotations

import io
import re
import shlex
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from typer.main import get_command

from scedit_cli.benchmark.requests import CostRequest
from scedit_cli.cli import app
from scedit_cli.conditions import annotate
from scedit_cli.core.weights import load_tuner, save_tuner
from scedit_cli.data.scenes import write_scenes
from scedit_cli.jobs.annotate import annotate as annotate_folder
from scedit_cli.jobs.bench import bench
from scedit_cli.jobs.checks.merge import MergeRequest
from scedit_cli.jobs.generate import generate
from scedit_cli.jobs.merge import merge
from scedit_cli.scenes import shipped_tuner
from scedit_cli.utils.io import as_json
from scedit_cli.utils.specs import TunerSpec
from tests import tiny
from tests.preparing import prepare

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = (README, *sorted((ROOT / ".github" / "docs").glob("*.md")), ROOT / "scedit_cli" / "benchmark" / "README.md",
             ROOT / "recipes" / "README.md")  # fmt: skip
COMMANDS = ("prepare", "annotate", "train", "generate", "merge", "bench")
# What makes a run short; an option that is given twice counts as it stands last.
_BASES = {"sd15": "models/sd15", "sd21": "models/sd21", "sdxl": "models/sdxl"}
_SHORT = {
    "train": ["--set", "train.steps=2", "--set", "train.batch_size=2", "--set", "data.scenes=4", "--set",
              "samples.every=0", "--set", "score.scenes=0", "--set", "train.precision=fp32",
              "--set", "validation.pictures=0"],
    "generate": ["--steps", "2"],
    "bench": ["--steps", "1", "--rounds", "1"],
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """A command as it is shown, and where."""

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"

    @property
    def words(self) -> list[str]:
        """Its words, without what a pipe or a redirection makes of its output."""
        words = shlex.split(self.text, comments=True)
        ends = [words.index(mark) for mark in ("|", ">", "&&", "…") if mark in words]
        return words[: min(ends, default=len(words))]

    @property
    def arguments(self) -> list[str]:
        """The program's own arguments, whoever starts it."""
        words = self.words
        return words[words.index("scedit_cli") + 1 :] if "scedit_cli" in words else words[1:]

    @property
    def untried(self) -> str | None:
        """Why it is only read and not run."""
        words = self.words
        if words[0] != "scedit":
            return f"{words[0]} starts it, or is another program"
        reasons = {
            "--ui": "a page in a browser: tests/jobs/test_generate_page.py",
            "owner/dataset": "a dataset of the hub",
            "onnx": "minutes of exporting: tests/exporting/test_graphs.py",
            "--unet": "an exported U-Net: tests/jobs/test_generate_unet.py",
            "--data": "a dataset's evaluation: tests/jobs/test_evaluate.py",
            "--frames": "a base of videos: tests/jobs/test_generate_video.py",
            "--sampling": "the whole Stable Diffusion 1.5",
            "--skips": "minutes of sampling: tests/benchmark/test_quality.py draws few",
            "w": "weights of the hub",
            "canny,color,depth": "weights of the hub",
        }
        if any("https://" in word for word in words):
            return "shards of another machine: tests/data/test_stream.py"
        return next((reason for word, reason in reasons.items() if word in words), None)

    def shortened(self) -> list[str]:
        """Its arguments with what makes it short."""
        name, *others = self.arguments
        if name == "train" and not {"--list", "--show"} & set(others):
            recipe = next((word for word in others if word.endswith(".toml")), "")
            base = _BASES.get(recipe.partition("-")[0])
            extra = ["--set", f"base.model={base}"] if base else []
            others = [*others, *_SHORT["train"], *extra]
        elif name == "generate" and "--from" not in others:
            others = [*others, *_SHORT["generate"]]
        elif name == "bench" and "--show" not in others:
            methods = _value(others, "--methods", "sc").split(",")
            if "--estimate" in others:
                base = _value(others, "--base", "sd15")
                others = [*others, "--methods", methods[0], "--base", _BASES.get(base, base)]
            elif "--tuner" in others:
                others = [*others, "--scenes", "2"]
            elif "--quality" in others:
                length = ["--seconds", "0.1"] if "--seconds" in others else ["--steps", "1"]
                others = [*others, "--methods", methods[0], "--scenes", "2", *length, "--seeds", "1"]
            else:
                others = [*others, "--methods", ",".join(methods[:2]), *_SHORT["bench"]]
        return [name, *others]


def _value(words: list[str], option: str, default: str) -> str:
    return words[words.index(option) + 1] if option in words else default


def blocks(language: str, document: Path = README) -> list[str]:
    """The blocks of that language in a document."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def shown() -> list[Shown]:
    """Every command of the documents' shell blocks and sentences, and of the examples that each --help shows."""
    found = []
    for document in DOCUMENTS:
        place = str(document.relative_to(ROOT))
        for text in blocks("bash", document):
            for line in text.replace("\\\n", " ").splitlines():
                for part in line.split(" && "):
                    if part.strip() and not part.startswith("#"):
                        found.append(Shown(place, part.strip().removeprefix("$ ")))
        sentences = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        inline = re.findall(rf"`(scedit (?:{'|'.join(COMMANDS)}) [^`]*)`", sentences)
        found += [Shown(f"{place}, in a sentence", " ".join(text.split())) for text in inline]
        lines = [line for text in blocks("yaml", document) for line in re.findall("run: (scedit .*)", text)]
        found += [Shown(f"{place}, workflow", line) for line in lines]
    for name in ("", *COMMANDS):
        for line in _help(name).partition("Examples:")[2].splitlines():
            if re.match(r"\s*(scedit|torchrun|accelerate) ", line):
                found.append(Shown(f"scedit {name} --help".replace("  ", " "), line.strip()))
    return list(dict.fromkeys(found))


def _help(name: str) -> str:
    with redirect_stdout(io.StringIO()) as out:
        command = get_command(app)
        command = command.commands[name] if name else command
        print(command.help)
    return out.getvalue()


def make_world(folder: Path) -> None:
    """Photos, maps, condition pictures, datasets, tiny bases, runs, tuners and documents under the names that the
    commands use."""
    shutil.copytree(ROOT / "scedit_cli" / "results", folder / "scedit_cli" / "results")
    result = bench(CostRequest(str(tiny.pipeline_folder("sd15")), ["sc"], estimate=True))
    (folder / "bench.json").write_text(as_json(result.document()))
    write_scenes(folder / "scenes", 4)
    (folder / "photos").mkdir()
    (folder / "maps").mkdir()
    draw = np.random.default_rng(0)
    for index in range(4):
        photo = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((512, 512))
        photo.save(folder / "photos" / f"{index}.jpg")
        (folder / "photos" / f"{index}.txt").write_text("a cube on a floor")
        photo.convert("L").save(folder / "maps" / f"{index}.png")
    prepare(folder / "photos", folder / "dataset", conditions={"depth": folder / "maps"}, size=64, shards=4)
    annotate_folder(folder / "dataset", ["canny"])
    photo.resize((128, 128)).save(folder / "photo.png")
    for name, kind in {"edges": "canny", "palette": "color"}.items():
        annotate(kind, Image.open(folder / "photo.png")).save(folder / f"{name}.png")
    for name in ("map", "room"):
        photo.resize((128, 128)).save(folder / f"{name}.png")
    for name in ("left", "mask"):
        Image.fromarray(np.repeat(np.uint8([[255] * 64 + [0] * 64]), 128, axis=0)).save(folder / f"{name}.png")
    for family in ("sd15", "sd21", "sdxl"):
        shutil.copytree(tiny.pipeline_folder(family), folder / "models" / family)
    for kind in ("canny", "color"):
        (folder / "runs" / kind).mkdir(parents=True)
        shutil.copy(shipped_tuner(kind), folder / "runs" / kind / "tuner.safetensors")
        shutil.copy(shipped_tuner(kind), folder / f"{kind}.safetensors")
    shutil.copy(shipped_tuner("style"), folder / "style.safetensors")
    shutil.copy(shipped_tuner("style"), folder / "look.safetensors")
    (folder / "mine.toml").write_text('extends = "canny.toml"\n')
    for place in ("scepter-canny", "scepter/0_SwiftSCETuning"):
        save_tuner(load_tuner(shipped_tuner("canny")), folder / place, format="scepter")
    both = [str(folder / f"{kind}.safetensors") for kind in ("canny", "color")]
    merge(MergeRequest([TunerSpec(file) for file in both], out=folder / "combo.safetensors"))
    generate("a red cube", steps=2, out=folder / "pictures")
