"""Imports go downward only; read from the source, so that those inside functions count too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

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


@cache
def nodes(file: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


@cache
def imports(file: Path) -> list[str]:
    """The dotted names of all modules that `file` imports."""
    return list(_imports(file))


def _imports(file: Path) -> Iterator[str]:
    package = module_of(file) if file.name == "__init__.py" else module_of(file).rpartition(".")[0]
    for node in nodes(file):
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


def imported_by(room: str = "") -> Iterator[tuple[str, str]]:
    """All (module, what it imports) of the package with its face, or of one of its rooms."""
    for file in FILES:
        module = module_of(file)
        if room in ("", room_of(module)):
            yield from ((module, name) for name in imports(file))


def goes_downward(module: str, name: str) -> bool:
    here, there = room_of(module), room_of(name) if name.split(".")[0] == "scedit_cli" else None
    if here is None or there is None:  # the package's face shows names of every room
        return True
    return there == here or (here, there) in NEIGHBOURS or LEVEL[there] > LEVEL[here]


def test_every_file_has_a_level() -> None:
    assert {module_of(file) for file in FILES if not room_of(module_of(file))} == {"scedit_cli"}


def test_imports_go_downward() -> None:
    assert goes_downward("scedit_cli.jobs.train", "scedit_cli.core.attach")
    assert not goes_downward("scedit_cli.core.attach", "scedit_cli.jobs.train")
    assert not [f"{module} imports {name}" for module, name in imported_by() if not goes_downward(module, name)]


def test_libraries_stay_in_their_rooms() -> None:
    outside = [
        f"{module} imports {name}"
        for module, name in imported_by()
        if room_of(module) not in RESERVED.get(name.split(".")[0], {room_of(module)})
    ]
    assert not outside
    assert {name.split(".")[0] for _, name in imported_by()} >= {"typer", "rich", "tomllib", "gradio"}


def test_core_needs_no_library_but_torch() -> None:
    libraries = {name.split(".")[0] for _, name in imported_by("core")}
    assert "torch" in libraries
    assert not libraries & {"diffusers", "transformers", "peft", "matplotlib", "PIL"}


def test_jobs_import_no_jobs() -> None:
    files = [file for file in FILES if file.parent == ROOT / "scedit_cli" / "jobs"]
    jobs = {name for file in files for name in imports(file) if name.startswith("scedit_cli.jobs.")}
    assert files and not {name for name in jobs if not name.startswith(_SHARED)}


def test_only_the_screen_prints() -> None:
    def prints(file: Path) -> bool:
        calls = (node.func for node in nodes(file) if isinstance(node, ast.Call))
        return any(isinstance(call, ast.Name) and call.id == "print" for call in calls)

    assert {room_of(module_of(file)) for file in FILES if prints(file)} == {"scenes.build"}
