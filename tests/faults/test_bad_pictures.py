"""Pictures from strangers: each is read or named with a reason, within 5 s and 1 GiB, by everything that reads some."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from scedit_cli.controls import open_condition
from scedit_cli.data.annotated import Task, annotate_chunk
from scedit_cli.conditions.orders import orders_of
from scedit_cli.data.buckets import bucket
from scedit_cli.data.intake import Rejected, take
from scedit_cli.data.sources import Blob, Entry
from scedit_cli.errors import SceditError
from scedit_cli.specs import ConditionSpec
from tests.faults import picture_files
from tests.faults.box import faults, folder_in_memory, try_each
from tests.faults.picture_files import Picture

SECONDS = 5.0
DAMAGED = 5000


def read_everywhere(folder: Path, picture: Picture) -> str:
    """What `prepare`, `annotate` and `generate --cond` make of a file: all read it, or all refuse it in a sentence."""
    file = folder / f"photo{picture.suffix}"
    file.write_bytes(picture.data)
    said = []
    entry = Entry(file.name, Blob.of_file(file), text="a caption", conditions={"seg": Blob.of_file(file)})
    taken = take(entry, "000000.png", folder, lambda size: bucket(size, 64, 64, upscale=True))
    said.append(taken.reason if isinstance(taken, Rejected) else "")
    outcomes = annotate_chunk([Task("photo", file, (folder / "canny.png",))], orders_of(["canny"]), overwrite=True)
    said.append(" ".join(outcomes[0].failed.values()))
    for spec in (ConditionSpec(file, "canny"), ConditionSpec(file, "inpaint"), ConditionSpec(file, "canny", photo=True)):
        try:
            open_condition(spec)
            said.append("")
        except SceditError as error:
            said.append(error.message)
    refused = [reason for reason in said if reason]
    assert not any("\n" in reason or len(reason) > 500 for reason in refused), refused
    if refused:
        raise SceditError(f"{len(refused)} of {len(said)}: {refused[-1]}")
    return "read"


def in_folders(pictures: list[Picture]):
    with folder_in_memory() as folder:

        def work(picture: Picture) -> str:
            own = folder / str(os.getpid())
            own.mkdir(exist_ok=True)
            try:
                return read_everywhere(own, picture)
            finally:
                shutil.rmtree(own)

        return try_each(pictures, work, SECONDS)


def test_whole_pictures_are_read(tried) -> None:
    outcomes = in_folders(picture_files.whole_ones())
    tried("whole pictures of all formats and modes", len(outcomes))
    assert faults(outcomes, SECONDS) == ""
    assert [str(each.case) for each in outcomes if each.what == "refused"] == ["float-tiff.tif", "int-tiff.tif"]


def test_odd_pictures_are_read_or_named(tried) -> None:
    outcomes = in_folders(list(picture_files.odd_ones()))
    tried("bombs, odd chunks and other kinds of files as pictures", len(outcomes))
    assert faults(outcomes, SECONDS) == ""
    assert not [str(each) for each in outcomes if "bomb" in str(each.case) and each.what != "refused"]


def test_damaged_pictures_are_read_or_named(tried) -> None:
    rng = random.Random(11)
    whole = picture_files.whole_ones()
    outcomes = in_folders([picture_files.damage(whole, rng) for _ in range(DAMAGED)])
    tried("damaged pictures", len(outcomes))
    assert faults(outcomes, SECONDS) == ""
    assert {each.what for each in outcomes} == {"fine", "refused"}
