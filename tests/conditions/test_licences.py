"""Licences that forbid commercial use are accepted once, and nothing is loaded before."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest

from scedit_cli import conditions
from scedit_cli.conditions import licences
from scedit_cli.conditions.registry import Annotator
from scedit_cli.utils.errors import SceditError
from tests.conditions.photos import astronaut


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "scedit/licences.json"


def annotator(licence: str = "research only", commercial: bool = False) -> Annotator:
    return Annotator("depth", "mine", "none", lambda *_: list, ("me/mine",), licence, commercial)


def test_what_is_free_by_default():
    forbidding = {
        f"{kind}/{each.name}"
        for kind in conditions.KINDS
        for each in conditions.annotators(kind)
        if not each.commercial
    }
    assert forbidding == {
        "depth/depth-anything-base", "depth/depth-anything-large", "pidinet/pidinet", "pose/openpose",
        "scribble/pidinet", "seg/mask2former", "seg/segformer",
    }  # fmt: skip
    assert {kind for kind in conditions.KINDS if not conditions.annotators(kind)[0].commercial} == {"pidinet"}


def test_accepted_once(book):
    mine = annotator()
    with pytest.raises(SceditError, match="depth by mine: .* forbids commercial use .research only.*accept_license"):
        mine.load(mine.settings())
    licences.accept(mine)
    licences.accept(mine)
    assert mine.load(mine.settings())([1]) == [1]
    [entry] = json.loads(book.read_text())
    assert (entry["weights"], entry["licence"]) == (["me/mine"], "research only")
    assert entry["accepted"].endswith("+00:00")


def test_another_licence_is_accepted_anew(book):
    licences.accept(annotator())
    other = annotator("no use at all")
    with pytest.raises(SceditError, match="no use at all"):
        other.load(other.settings())
    licences.accept(other)
    assert len(json.loads(book.read_text())) == 2


def test_all_that_are_accepted_at_once_are_kept(book):
    mine = [replace(annotator(), weights=(f"me/{number}",)) for number in range(8)]
    ready = Barrier(8)
    for _ in range(5):
        book.unlink(missing_ok=True)
        with ThreadPoolExecutor(8) as threads:  # each opens the lock anew, as a process does
            list(threads.map(lambda each: ready.wait() >= 0 and licences.accept(each), mine))
        assert sorted(entry["weights"][0] for entry in json.loads(book.read_text())) == [f"me/{n}" for n in range(8)]


def test_a_place_that_takes_no_settings_is_told(book):
    book.parent.write_text("a file")
    with pytest.raises(SceditError, match="licences.json could not be written"):
        licences.accept(annotator())
    book.parent.unlink()
    book.mkdir(parents=True)
    with pytest.raises(SceditError, match="licences.json cannot be read"):
        licences.accept(annotator())


def test_a_free_one_is_not_asked_for(book):
    free = annotator("MIT", commercial=True)
    licences.accept(free)
    assert free.load(free.settings())([1]) == [1]
    assert not book.exists()


def test_a_damaged_book_is_told(book):
    book.parent.mkdir()
    book.write_text("{")
    with pytest.raises(SceditError, match=r"licences\.json is no JSON"):
        licences.accept(annotator())


def test_one_picture_needs_acceptance_too(book, tmp_path):
    with pytest.raises(SceditError, match="pose by openpose: .* forbids commercial use"):
        conditions.annotate("pose", astronaut(64, 64), "openpose", weights=tmp_path)
