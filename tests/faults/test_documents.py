"""Every command and every program that the documents and the help show does what it says, in a small world."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image
from typer.main import get_command

from scedit_cli.cli import app
from scedit_cli.cli.train import settings
from scedit_cli.recipe import load_recipe
from tests.faults import documents
from tests.faults.box import Outcome, faults, try_each
from tests.faults.documents import COMMANDS, Shown

SECONDS = 120.0
SHOWN = documents.shown()
RUN = list({tuple(each.words): each for each in SHOWN if each.untried is None}.values())  # once where shown twice


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    documents.make_world(folder)
    return folder


def called(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the program."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        with pytest.raises(SystemExit) as ended:
            get_command(app).main(list(arguments))
    return ended.value.code or 0, out.getvalue(), err.getvalue()


def is_new(words: list[str]) -> bool:
    """Whether what --out names is to be made by the command."""
    return not (words[0] == "prepare" and words[1].startswith("--out")) and "--resume" not in words


def done(command: Shown, world: Path, place: Path) -> str:
    """The command's last line, once it has ended well in a copy of the world."""
    shutil.copytree(world, place)
    os.chdir(place)
    words = command.shortened()
    if "--out" in words and is_new(words):
        there = place / words[words.index("--out") + 1]
        shutil.rmtree(there) if there.is_dir() else there.unlink(missing_ok=True)
    if "--baseline" in words:
        at = words.index("--baseline")
        made = called(*words[:at], *words[at + 4 :], "--out", words[at + 1], "--overwrite")
        assert made[0] == 0, made[2]
    code, out, err = called(*words)
    # On a busy machine a figure may have got worse.
    assert code == 0 or ("--baseline" in words and code == 1 and "error" not in err), f"exit code {code}: {err[-500:]}"
    return out.strip().splitlines()[-1] if out.strip() else ""


def test_every_command_that_is_shown_works(world, tmp_path, tried) -> None:
    outcomes: list[Outcome] = try_each(RUN, lambda command: done(command, world, tmp_path / str(os.getpid())
                                                                 / str(RUN.index(command))), SECONDS)  # fmt: skip
    tried("commands of the documents and the help, run", len(outcomes))
    assert len(outcomes) > 40
    assert faults(outcomes, SECONDS, memory=8 * 2**30) == ""


@pytest.mark.parametrize("command", [each for each in SHOWN if each.untried], ids=str)
def test_what_cannot_be_run_here_is_read(command) -> None:
    """Other programs, the hub, clusters: the options exist, and so does the recipe."""
    words = command.arguments
    if words[:1] and words[0] in COMMANDS:
        name, *others = words
        assert get_command(app).commands[name].make_context(name, list(others)).params
        if "--recipe" in others:
            sets = [word for at, word in enumerate(others) if others[at - 1] == "--set"]
            recipe = others[others.index("--recipe") + 1]
            load_recipe(recipe, settings([*sets, "data.path=dataset"]))
    else:
        assert command.text.split()[0] in ("python", "hf", "#SBATCH") or re.match(r"[A-Z_]+=|srun", command.text)


def test_the_mistake_that_is_shown_is_told_so() -> None:
    [console] = documents.blocks("console")
    first, *expected = console.strip().splitlines()
    code, _, err = called(*Shown("README", first.removeprefix("$ ")).arguments)
    assert code == 2 and err.splitlines()[: len(expected)] == expected


def test_the_programs_of_the_readme(world, monkeypatch, tmp_path) -> None:
    first, second = documents.blocks("python")
    shutil.copytree(world, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    Image.effect_noise((64, 64), 99).convert("RGB").save("photo.png")
    names: dict = {}
    exec(first.replace("seeds=[0, 1]", "seeds=[0, 1], sampler=scedit.SamplerConfig(steps=2)"), names)
    assert Image.open("cube.png").size == (64, 64)
    exec(second.replace("height=edges", "num_inference_steps=2, height=edges"), names)
    assert names["image"].size == (64, 64) and Path("canny.safetensors").is_file()
    assert names["combo"].scales == (1.0, 0.5)


def test_sentences_of_the_troubleshooting_are_ours() -> None:
    """What is explained word for word is what the program says."""
    section = (documents.ROOT / ".github" / "docs" / "troubleshooting.md").read_text("utf-8")
    files = (documents.ROOT / "scedit_cli").rglob("*.py")
    source = " ".join(" ".join(file.read_text("utf-8").split()) for file in files)
    quoted = re.findall(r'"… ([^"…]+?)(?: …)?"', " ".join(section.split()))
    assert len(quoted) >= 15
    for sentence in quoted:
        assert sentence.rstrip(",") in source, sentence
