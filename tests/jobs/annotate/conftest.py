"""What the tests of `annotate` share: a dataset folder."""

from __future__ import annotations

import json

import pytest

from scedit_cli.data.dataset import row_of, write_rows
from scedit_cli.data.scenes import example


@pytest.fixture
def folder(tmp_path):
    """Three scenes without conditions, their rows with a column of another tool."""
    (tmp_path / "data/images").mkdir(parents=True)
    for seed in range(3):
        example(seed, ()).image.save(tmp_path / f"data/images/{seed}.png")
    write_rows(tmp_path / "data", [row_of(f"{seed}.png", "a scene", ()) | {"mood": seed} for seed in range(3)])
    return tmp_path / "data"


@pytest.fixture
def rows(folder):
    """The rows of the folder's metadata, as they are now."""
    return lambda: [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
