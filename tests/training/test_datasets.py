from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from scedit_cli.data.dataset import open_dataset
from scedit_cli.data.shard_dataset import open_streamed
from scedit_cli.training import datasets
from tests.archives import write_tar
from tests.recorder import steps_to


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCEDIT_CACHE", str(tmp_path / "cache"))


def render(*args) -> tuple[Path, bool]:
    """The folder of the scenes, and whether they were rendered again."""
    told = []
    dataset = datasets.rendered_scenes(*args, steps_to(told.append))
    assert len(open_dataset(dataset.path)) == args[0]
    return dataset.path, bool(told)


def test_scenes_are_rendered_once(tmp_path, monkeypatch):
    folder, fresh = render(2, 0, "plain", ["canny"])
    assert fresh and folder.is_relative_to(tmp_path / "cache")
    assert render(2, 0, "plain", ["canny"]) == (folder, False)
    (folder / "images" / "000001.png").unlink()
    assert render(2, 0, "plain", ["canny"]) == (folder, True)
    others = {render(*args)[0] for args in [(1, 0, "plain", ["canny"]), (2, 5, "plain", ["canny"]),
                                            (2, 0, "pastel", ["canny"]), (2, 0, "plain", [])]}  # fmt: skip
    assert len(others | {folder}) == 5
    monkeypatch.setattr(datasets, "_renderer", lambda: "another")
    assert render(2, 0, "plain", ["canny"])[1]


def test_the_cache_is_where_users_expect_it(monkeypatch):
    monkeypatch.delenv("SCEDIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert datasets.cache_folder() == Path("/elsewhere/scedit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert datasets.cache_folder() == Path.home() / ".cache" / "scedit"


def test_shards_that_are_written_again_are_read_again(tmp_path):
    """At the same size: tar files are padded to whole blocks."""
    kept = []
    for number, level in enumerate((10, 200)):
        Image.new("RGB", (64, 64), (level, level, level)).save(buffer := io.BytesIO(), "BMP")
        shard = write_tar(tmp_path / "0.tar", {"0.bmp": buffer.getvalue(), "0.txt": b"a"})
        os.utime(shard, ns=(number, number))
        first = datasets.first_of(open_streamed(str(shard), (64, 64)), 1)
        kept.append((shard.stat().st_size, Image.open(first.items[0].image).getpixel((0, 0))[0]))
    assert kept == [(kept[0][0], 10), (kept[0][0], 200)]
