"""Who does the work: one process, several, an accelerator, or the ranks of a launcher."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from scedit_cli.conditions.annotation_spec import make_specs
from scedit_cli.conditions.registry import Annotator, Kind, all_kinds, find
from scedit_cli.data import annotation
from scedit_cli.data.annotation import Outcome
from scedit_cli.data.dataset import open_dataset, row_of, write_rows
from scedit_cli.utils import distributed
from scedit_cli.utils.errors import WorkFailed
from tests.conditions.local_weights import save_weights
from tests.jobs.drawn import annotate
from tests.recorder import Recorder


def test_processes_make_what_one_makes(folder, monkeypatch):
    annotate(folder, ["canny", "inpaint"], processes=1)
    alone = {path.name: path.read_bytes() for path in (folder / "conditions/inpaint").iterdir()}
    monkeypatch.setattr(annotation, "_ALONE", 0)
    monkeypatch.setattr(annotation, "_CHUNK", 1)
    (folder / "images/1.png").write_bytes(b"no image")
    result = annotate(folder, ["canny", "inpaint"], processes=2, overwrite=True)
    assert (result.written, [file for file, _ in result.failed]) == (4, ["images/1.png"])
    assert {path.name: path.read_bytes() for path in (folder / "conditions/inpaint").iterdir()} == alone


class Slow:
    """An annotator with weights: inverts, and remembers its batches. It cannot do pictures with a white corner."""

    def __init__(self, monkeypatch):
        self.batches, self.devices = [], []
        annotator = Annotator("gray", "slow", "none", self.loader, weights=("somebody/weights",))
        monkeypatch.setitem(all_kinds(), "gray", Kind("gray", (annotator,)))

    def loader(self, parameters, weights, device):
        self.devices.append((device, weights))
        return self.make

    def make(self, pictures):
        self.batches.append(len(pictures))
        if any(picture.getpixel((0, 0)) == (255, 255, 255) for picture in pictures):
            raise ValueError("too bright")
        return [ImageOps.invert(picture.convert("L")) for picture in pictures]


def test_an_accelerator_gets_batches(folder, monkeypatch):
    slow = Slow(monkeypatch)
    result = annotate(folder, ["gray", "canny"], device="meta", batch_size=2, weights=folder)
    assert (result.written, slow.batches, set(slow.devices)) == (6, [2, 1], {("meta", folder)})
    for number in range(3):
        made = np.asarray(Image.open(folder / f"conditions/gray/{number}.png"))
        assert np.array_equal(made, 255 - np.asarray(Image.open(folder / f"images/{number}.png").convert("L")))
    assert open_dataset(folder).kinds == ("gray", "canny")


def test_a_picture_that_an_annotator_cannot_do_is_named_alone(folder, monkeypatch):
    Slow(monkeypatch)
    Image.new("RGB", (128, 128), "white").save(folder / "images/1.png")
    for device in ("cpu", "meta"):
        result = annotate(folder, "gray", device=device, overwrite=True)
        assert result.written == 2
        assert result.failed == [("images/1.png", "gray cannot be made of it: too bright")]


def test_the_reasons_of_both_passes_are_told(folder, monkeypatch):
    Slow(monkeypatch)
    Image.new("RGB", (128, 128), "white").save(folder / "images/1.png")

    def dull(pictures):
        if any(picture.getpixel((0, 0)) == (255, 255, 255) for picture in pictures):
            raise cv2.error("too dull")
        return pictures

    monkeypatch.setitem(all_kinds(), "blur", Kind("blur", (Annotator("blur", "dull", "none", lambda *_: dull),)))
    result = annotate(folder, ["gray", "blur"], device="meta", processes=1)
    told = "gray cannot be made of it: too bright; blur cannot be made of it: too dull"
    assert result.failed == [("images/1.png", told)]


@pytest.mark.parametrize("providers", [["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]])
def test_dwpose_leaves_an_accelerator_that_it_cannot_use(folder, monkeypatch, providers):
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    used = []
    pose = replace(find("pose").annotator("dwpose"), loader=lambda p, w, device: used.append(device) or list)
    monkeypatch.setitem(all_kinds(), "pose", Kind("pose", (pose,)))
    annotate(folder, "pose", device="cuda:0", processes=1)
    assert set(used) == {"cuda:0" if len(providers) > 1 else "cpu"}


def test_memory_that_runs_out_is_nobodys_picture(folder, monkeypatch):
    def make(pictures):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    annotator = Annotator("gray", "large", "none", lambda *_: make)
    monkeypatch.setitem(all_kinds(), "gray", Kind("gray", (annotator,)))
    with pytest.raises(WorkFailed, match="memory ran out"):
        annotate(folder, "gray", processes=1)


def test_memory_that_runs_out_is_given_back_before_less_is_tried(folder, monkeypatch):
    """Within the handler of an error, its traceback holds what the network had made of the whole batch."""
    handled = []

    def make(pictures):
        if len(pictures) > 1:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        handled.append(sys.exception())
        return pictures

    annotator = Annotator("gray", "large", "none", lambda *_: make)
    monkeypatch.setitem(all_kinds(), "gray", Kind("gray", (annotator,)))
    assert annotate(folder, "gray", device="meta").written == 3
    assert handled == [None] * 3


def test_a_process_that_is_killed_is_told(folder, monkeypatch):
    # More images than are ever handed out ahead, so that work is left however fast the processes are.
    example = (folder / "images/0.png").read_bytes()
    for at in range(3, 12):
        (folder / f"images/{at}.png").write_bytes(example)
    write_rows(folder, [row_of(f"{at}.png", "a scene", ()) for at in range(12)])

    def killed(*_):
        for child in multiprocessing.active_children():
            child.kill()

    monkeypatch.setattr(annotation, "_ALONE", 0)
    monkeypatch.setattr(annotation, "_CHUNK", 1)
    with pytest.raises(WorkFailed, match="was killed"):
        annotate(folder, "canny", processes=2, reporter=Recorder(killed))


def test_ranks_share_the_pictures(folder, monkeypatch, rows):
    monkeypatch.setattr(distributed, "_gather", lambda items: [*items, Outcome("images/1.png", written=["canny"])])
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    result = annotate(folder, "canny")
    assert sorted(path.name for path in (folder / "conditions/canny").iterdir()) == ["0.png", "2.png"]
    assert (result.written, result.is_first) == (3, True)
    assert all("canny_file_name" in row for row in rows())
    before = (folder / "metadata.jsonl").read_bytes()
    monkeypatch.setenv("RANK", "1")
    result = annotate(folder, "color")
    assert not result.is_first and (folder / "metadata.jsonl").read_bytes() == before
    assert [path.name for path in (folder / "conditions/color").iterdir()] == ["1.png"]


def test_ranks_of_a_launcher_meet(folder, rows):
    """`accelerate launch` starts torchrun's processes with --multi_gpu, which needs no GPU, and one with --cpu."""
    launcher = "accelerate.commands.accelerate_cli launch --multi_gpu --num_processes=2 --main_process_port=0"
    command = [sys.executable, "-m", *launcher.split(), "-m", "scedit_cli", "annotate", str(folder), "--cond", "canny"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["written"] == 3
    for row in rows():
        edges = cv2.Canny(np.asarray(Image.open(folder / row["file_name"])), 100, 200)
        assert np.array_equal(np.asarray(Image.open(folder / row["canny_file_name"])), edges)


def test_a_networks_depth_in_batches_is_that_of_single_pictures(folder, tmp_path):
    [depth] = make_specs(["depth"])
    weights = save_weights(depth.annotator, tmp_path / "weights")
    options = {"params": ["bits=16"], "weights": weights}
    annotate(folder, "depth", device="cpu:0", batch_size=2, **options)  # any device but "cpu" gets batches
    batched = [np.asarray(Image.open(folder / f"conditions/depth/{n}.png")) for n in range(3)]
    assert batched[0].dtype == np.uint16 and [batched[1].min(), batched[1].max()] == [0, 65535]
    assert annotate(folder, "depth", device="cpu", **options).skipped == 3
    for number in range(3):
        out = tmp_path / f"{number}.png"
        annotate(folder / f"images/{number}.png", "depth", out, device="cpu", **options)
        assert np.abs(np.asarray(Image.open(out)).astype(int) - batched[number]).max() <= 16
