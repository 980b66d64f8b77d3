"""The recipes that come with scedit."""

from __future__ import annotations

from pathlib import Path


def builtin_recipes() -> dict[str, Path]:
    """Return the recipes that come with scedit, by name."""
    package = Path(__file__).parents[1]
    # A wheel has the recipes inside the package, a source checkout beside it.
    folder = next((f for f in (package / "recipes", package.parent / "recipes") if f.is_dir()), None)
    return {path.stem: path for path in sorted(folder.rglob("*.toml"))} if folder else {}
