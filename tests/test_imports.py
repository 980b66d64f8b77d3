"""Imports go downward only; read from the source, so that those inside functions count too."""

from __future__ import annotations

import ast
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


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_only_the_screen_prints(file: Path) -> None:
    calls = [node.func for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    prints = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
    assert not prints or room_of(module_of(file)) == "scenes.build"
