"""Pictures from strangers: each is read or named with a reason, within 5 s and 1 GiB, by everything that reads some."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from scedit_cli.conditions.annotation_spec import make_specs
from scedit_cli.data.annotation import Task, annotate_chunk
from scedit_cli.data.buckets import bucket
from scedit_cli.data.hints import read_uint8
from scedit_cli.data.images import open_image
from scedit_cli.data.importing import Rejected, take
from scedit_cli.data.sources import Blob, Entry
from scedit_cli.inference.config import Control
from scedit_cli.inference.controls import OpenedControl
from scedit_cli.utils.errors import SceditError
from tests.faults import picture_files
from tests.faults.box import GIB, Outcome, faults, folder_in_memory, try_each
from tests.faults.picture_files import Picture

SECONDS = 5.0
DAMAGED = 5000


def prepared(file: Path, folder: Path) -> None:
    blob = Blob(str(file), partial(file.open, "rb"))
    entry = Entry(file.name, blob, text="a caption", conditions={"seg": blob})
    taken = take(entry, "000000.png", folder, lambda size: bucket(size, 64, 64, upscale=True))
    if isinstance(taken, Rejected):
        raise SceditError(f"{entry.name}: {taken.reason}")  # as the report has it, name by name


def annotated(file: Path, folder: Path) -> None:
    [outcome] = annotate_chunk([Task("photo", file, (folder / "canny.png",))], make_specs(["canny"]), overwrite=True)
    if outcome.failed:
        raise SceditError(" ".join(outcome.failed.values()))


READERS = {
    "prepare": prepared,
    "annotate": annotated,
    "generate --cond canny=": lambda file, folder: OpenedControl.of(Control("canny", file)),
    "generate --cond inpaint=": lambda file, folder: OpenedControl.of(Control("inpaint", file)),
    "generate --cond-from canny=": lambda file, folder: OpenedControl.of(Control("canny", photo=file)),
    "generate --image": lambda file, folder: open_image(file),
    "train": lambda file, folder: read_uint8(file),
    "train of inpaint": lambda file, folder: read_uint8(file, channels=4),
}


class Reading(NamedTuple):
    readers: Iterable[str]
    picture: Picture

    def __str__(self) -> str:
        return f"{self.picture} by {', '.join(self.readers)}"


def read_by(readers: Iterable[str], picture: Picture, folder: Path) -> str:
    """All that open the file by its name read it, or all refuse it; whoever refuses names it and gives a reason.
    `prepare` reads streams, and Pillow takes a few damaged files in one of the two ways alone: it maps what it can."""
    file = folder / f"photo{picture.suffix}"
    file.write_bytes(picture.data)
    said = {}
    for reader in readers:
        try:
            READERS[reader](file, folder)
        except SceditError as error:
            assert 10 < len(error.message) < 500 and "\n" not in error.message, error.message
            assert file.name in error.message, error.message
            said[reader] = error.message
    if said:
        by_name = set(readers) - {"prepare"}
        assert by_name & said.keys() in (set(), by_name), f"only {', '.join(said)} refused it"
        raise SceditError(max(said.values(), key=len))
    return "read"


def in_folders(cases: list[Reading]) -> list[Outcome]:
    with folder_in_memory() as folder:

        def work(case: Reading) -> str:
            own = folder / str(os.getpid())
            own.mkdir(exist_ok=True)
            try:
                return read_by(*case, own)
            finally:
                shutil.rmtree(own)

        return try_each(cases, work, SECONDS)


def test_whole_pictures_are_read(tried) -> None:
    outcomes = in_folders([Reading(READERS, picture) for picture in picture_files.whole_ones()])
    tried("whole pictures of all formats and modes", len(outcomes))
    assert faults(outcomes, SECONDS) == ""
    refused = {str(each.case.picture) for each in outcomes if each.what == "refused"}
    animations = {f"animated-{kind}.{kind}" for kind in ("png", "webp", "gif")}  # by `prepare`, which names them
    assert refused == {"float-tiff.tif", "int-tiff.tif"} | animations


def test_odd_pictures_are_read_or_named(tried) -> None:
    outcomes = in_folders([Reading(READERS, picture) for picture in picture_files.odd_ones()])
    tried("bombs, odd chunks and other kinds of files as pictures", len(outcomes))
    assert faults(outcomes, SECONDS) == ""
    assert not [str(each) for each in outcomes if "bomb" in str(each.case.picture) and each.what != "refused"]


def test_damaged_pictures_are_read_or_named(tried) -> None:
    rng = random.Random(11)
    whole = picture_files.whole_ones()
    outcomes = in_folders([Reading(READERS, picture_files.damage(whole, rng)) for _ in range(DAMAGED)])
    tried("damaged pictures", len(outcomes))
    assert faults(outcomes, SECONDS) == ""
    assert {each.what for each in outcomes} == {"fine", "refused"}


@pytest.mark.parametrize(("side", "ends"), [(8_100, "fine"), (8_300, "refused")])
def test_small_files_of_large_pictures(side, ends, tried) -> None:
    cases = [Reading((reader,), picture) for picture in picture_files.large_ones(side) for reader in READERS]
    outcomes = in_folders(cases)
    tried("small files of large pictures", len(outcomes))
    assert faults(outcomes, 2 * SECONDS, GIB if ends == "fine" else GIB // 32) == ""  # by their size, before it is decoded
    assert {each.what for each in outcomes} == {ends}
