"""Imports go downward only; read from the source, so that those inside functions count too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "scedit_cli").rglob("*.py"))

# From the top down. A room may import those below its level and itself, not its neighbours on the level.
LEVELS = (
    ("__main__", "cli", "scenes.build"),
    ("jobs",),
    ("benchmark",),
    ("training",),
    ("generation",),
    ("inference",),
    ("exporting",),
    ("data",),
    ("conditions",),
    ("models",),
    ("scenes",),
    ("core", "recipe"),
    ("utils",),
)
_SHARED = ("scedit_cli.jobs.checks", "scedit_cli.jobs.merge_inputs")  # by several jobs
NEIGHBOURS = {("__main__", "cli")}
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
# Who alone may import these.
RESERVED = {"typer": {"cli"}, "rich": {"cli"}, "tomllib": {"recipe"}, "gradio": {"generation"}}


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> Iterator[str]:
    """The dotted names of all modules that `file` imports."""
    package = module_of(file) if file.name == "__init__.py" else module_of(file).rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (home, node.module)))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str | None:
    """The room that a module of the package, or a name in it, belongs to; None for the package's own face."""
    inner = module.removeprefix("scedit_cli").removeprefix(".")
    return next((room for room in sorted(LEVEL, key=len, reverse=True) if f"{inner}.".startswith(f"{room}.")), None)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_go_downward(file: Path) -> None:
    module = module_of(file)
    here = room_of(module)
    if module == "scedit_cli":
        return
    assert here, f"{module} has no level yet"
    for name in imports(file):
        there = room_of(name) if name.split(".")[0] == "scedit_cli" else None
        if there is None or there == here or (here, there) in NEIGHBOURS:
            continue
        assert LEVEL[there] > LEVEL[here], f"{module} imports {name}"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_libraries_stay_in_their_rooms(file: Path) -> None:
    room = room_of(module_of(file))
    for name in imports(file):
        library = name.split(".")[0]
        assert room in RESERVED.get(library, {room}), f"{module_of(file)} imports {name}"
        if room == "core":
            assert library not in ("diffusers", "transformers", "peft", "matplotlib", "PIL"), "core needs torch only"


@pytest.mark.parametrize("file", sorted((ROOT / "scedit_cli" / "jobs").glob("*.py")), ids=module_of)
def test_jobs_import_no_jobs(file: Path) -> None:
    jobs = {name for name in imports(file) if name.startswith("scedit_cli.jobs.")}
    assert not {name for name in jobs if not name.startswith(_SHARED)}


# Rooms in which arguments stand in backticks, which the command line replaces by its options.
TRANSLATED = (
    "conditions", "data", "models", "recipe", "scenes", "training", "jobs.train", "jobs.prepare", "jobs.checks.train",
    "jobs.checks.prepare",
)  # fmt: skip
# A program of its own, a page for users of the command line, and what `generate` alone says.
_UNTRANSLATED = ("scedit_cli.scenes.build", "scedit_cli.training.model_card", "scedit_cli.conditions.naming")
_OTHER_PROGRAMS = re.compile(r"(tar|accelerate launch|hf download) --|--local-dir")
IN_TRANSLATED = [f for f in FILES if f"{module_of(f)}.".startswith(tuple(f"scedit_cli.{r}." for r in TRANSLATED))]


@pytest.mark.parametrize("file", IN_TRANSLATED, ids=module_of)
def test_options_are_the_command_lines_alone(file: Path) -> None:
    if module_of(file).startswith(_UNTRANSLATED):
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docs = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, _DOCUMENTED)}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named = {text for text in texts - docs if re.search(r"(?<![\w-])--[a-z]", text)}
    assert not {text for text in named if not _OTHER_PROGRAMS.search(text)}


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_only_the_screen_prints(file: Path) -> None:
    calls = [node.func for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    prints = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
    assert not prints or room_of(module_of(file)) == "scenes.build"
