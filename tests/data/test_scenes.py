"""Rendered dataset folders: complete, deterministic, and there as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from scedit_cli.data import scenes
from scedit_cli.data.dataset import open_dataset
from scedit_cli.data.scenes import SCENE_KINDS, example, write_scenes
from scedit_cli.scenes.captions import caption
from scedit_cli.scenes.encodings import SEG_PALETTE, image_to_depth
from scedit_cli.scenes.layout import sample_scene
from scedit_cli.scenes.render import render
from scedit_cli.utils.errors import SceditError
from tests.recorder import Recorder, steps_to


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_processes_write_what_one_process_writes(tmp_path, monkeypatch):
    steps = []
    write_scenes(tmp_path / "one", 10, seed=3, size=64, processes=1)
    monkeypatch.setattr(scenes, "_ALONE", 0)
    write_scenes(tmp_path / "two", 10, seed=3, size=64, processes=2, reporter=steps_to(steps.append))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert steps == [(8, 10), (10, 10)]
    dataset = open_dataset(tmp_path / "two")
    assert (len(dataset), dataset.buckets, set(dataset.kinds)) == (10, ((64, 64),), set(SCENE_KINDS))


def test_the_files_show_the_scene(tmp_path):
    write_scenes(tmp_path / "out", 2, seed=40)
    item = open_dataset(tmp_path / "out").items[1]
    truth = render(sample_scene(41))
    pictures = {kind: np.asarray(Image.open(path)) for kind, path in item.conditions.items()}
    assert item.text == caption(sample_scene(41))
    assert np.array_equal(np.asarray(Image.open(item.image)), truth.image)
    assert np.array_equal(pictures["canny"], cv2.Canny(truth.image, 100, 200))
    assert np.array_equal(pictures["seg"], SEG_PALETTE[truth.segmentation])
    depth = image_to_depth(pictures["depth"])
    assert np.array_equal(np.isfinite(depth), np.isfinite(truth.depth))
    close = truth.depth < 16
    assert np.abs(depth[close] - truth.depth[close]).max() < 0.06


def test_look_and_seed_change_the_picture_and_the_look_no_geometry():
    plain, pastel, other = example(5), example(5, look="pastel"), example(6)
    assert plain.image.tobytes() != pastel.image.tobytes()
    assert plain.image.tobytes() != other.image.tobytes()
    assert plain.conditions["depth"].tobytes() == pastel.conditions["depth"].tobytes()
    assert plain.conditions["canny"].tobytes() != pastel.conditions["canny"].tobytes()
    assert plain.text == pastel.text


def test_a_failure_leaves_nothing_and_nothing_is_overwritten(tmp_path):
    def break_down(event):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_scenes(tmp_path / "out", 9, size=64, processes=1, reporter=Recorder(break_down))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    with pytest.raises(SceditError, match="full exists already"):
        write_scenes(tmp_path / "full", 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"count": 0}, "0 scenes"),
        ({"count": 1, "seed": -1}, "seed -1"),
        ({"count": 1, "look": "noir"}, "'noir'.*plain, pastel"),
        ({"count": 1, "kinds": ("pose",)}, "no pose"),
    ],
)
def test_bad_input_writes_nothing(tmp_path, arguments, sentence):
    with pytest.raises(SceditError, match=sentence):
        write_scenes(tmp_path / "out", **arguments)
    assert list(tmp_path.iterdir()) == []
