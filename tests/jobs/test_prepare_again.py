"""`prepare`, called again, by two at once, or by several processes of one launcher."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from PIL import Image

from scedit_cli.data.dataset import open_dataset
from scedit_cli.jobs import prepare as job
from scedit_cli.utils.errors import SceditError
from tests import tiny
from tests.jobs.drawn import annotate
from tests.preparing import prepare
from tests.ranks import together
from tests.recorder import Recorder


@pytest.fixture
def photos(tmp_path):
    """Two pictures with captions."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate("ab"):
        Image.effect_noise((96, 64), 50 + 50 * number).convert("RGB").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"picture {name}")
    return folder


def test_the_same_call_goes_on_where_it_was_stopped(photos, tmp_path, monkeypatch):
    """Stopped after the folder has appeared, which is complete then; another call is refused as ever."""
    asked = {"size": 64, "cache": ["text"], "base": str(tiny.pipeline_folder(tiny.SMALLEST)), "allow_captionless": True}
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(job, "cache_text", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        prepare(photos, tmp_path / "out", **asked)
    assert {"report.json", "overview.png", "metadata.jsonl"} <= {path.name for path in (tmp_path / "out").iterdir()}
    with pytest.raises(SceditError, match="exists already"):
        prepare(photos, tmp_path / "out", **asked | {"square": True})
    events = []
    result = prepare(photos, tmp_path / "out", **asked, reporter=Recorder(events.append))
    assert result.images == 2 and "by the same call" in events[0].text
    assert list((tmp_path / "out" / "cache").glob("text-*/*.safetensors"))
    with pytest.raises(SceditError, match="exists already"):
        prepare(photos, tmp_path / "out", size=64)


def test_the_second_who_prepares_a_folder_is_told(photos, tmp_path, monkeypatch):
    def second(*args):
        with pytest.raises(SceditError, match=f"out is in use by process {os.getpid()} on"):
            prepare(photos, tmp_path / "out", shards=1)
        return []

    monkeypatch.setattr(job, "write_shards", second)
    prepare(photos, tmp_path / "out", size=64, shards=1)
    assert not list(tmp_path.glob(".*"))


def test_another_call_or_another_source_is_not_the_same(photos, tmp_path, monkeypatch):
    out, asked = tmp_path / "out", {"size": 64, "shards": 1}
    (photos / "torn.png").write_bytes(b"no image")
    assert prepare(photos, out, **asked).images == 2
    for more in ({"strict": True}, {"allow_captionless": True}):
        with pytest.raises(SceditError, match="exists already"):
            prepare(photos, out, **asked | more)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(photos)
    for same in ("photos", "./photos/", "link"):
        assert prepare(same, out, **asked).report is None
    (photos / "notes.md").write_text("nothing that is read")
    assert prepare(photos, out, **asked).report is None
    Image.new("RGB", (96, 64)).save(photos / "c.png")
    with pytest.raises(SceditError, match=r"photos has changed since .*--out"):
        prepare(photos, out, **asked)
    assert prepare(None, out, shards=1).images == 2
    with pytest.raises(SceditError, match="exists already"):
        prepare(None, tmp_path / "out", scenes=2, shards=1)


def test_a_report_beside_the_folder_that_is_not_ours_stays(photos, tmp_path):
    report = tmp_path / "out.report.json"
    (photos / "b.txt").unlink()
    for mine in ("my notes", "[]", '{"asked": "me"}', "[" * 100_000):
        report.write_text(mine)
        with pytest.raises(SceditError, match=r"out\.report\.json would name every one, and is another file now"):
            prepare(photos, tmp_path / "out", size=64)
        prepare(photos, tmp_path / "out", size=64, allow_captionless=True)
        assert report.read_text() == mine
        shutil.rmtree(tmp_path / "out")
    report.unlink()
    with pytest.raises(SceditError, match=r"out\.report\.json names every one"):
        prepare(photos, tmp_path / "out", size=64)
    prepare(photos, tmp_path / "out", size=64, allow_captionless=True)
    assert not report.exists()


def test_a_report_that_is_nested_deep_is_none_of_ours(photos, tmp_path):
    prepare(photos, tmp_path / "out", size=64)
    (tmp_path / "out/report.json").write_text("[" * 100_000)
    with pytest.raises(SceditError, match="exists already"):
        prepare(photos, tmp_path / "out", size=64, shards=1)


def test_a_folder_inside_its_source_and_one_with_maps_elsewhere(photos, tmp_path):
    (tmp_path / "maps").mkdir()
    for name in "ab":
        Image.new("L", (96, 64)).save(tmp_path / f"maps/{name}.png")
    asked = {"conditions": {"depth": tmp_path / "maps"}, "size": 64, "shards": 1}
    prepare(photos, photos / "out", **asked)
    assert prepare(photos, photos / "out", **asked).report is None
    Image.new("L", (96, 64), 9).save(tmp_path / "maps/a.png")
    with pytest.raises(SceditError, match="has changed since"):
        prepare(photos, photos / "out", **asked)


def test_what_has_changed_behind_a_link_is_noticed(photos, tmp_path):
    (tmp_path / "more").mkdir()
    shutil.copy(photos / "a.png", tmp_path / "more/c.png")
    (tmp_path / "more/c.txt").write_text("picture c")
    (photos / "linked").symlink_to(tmp_path / "more")
    assert prepare(photos, tmp_path / "out", size=64, shards=1).images == 3
    assert prepare(photos, tmp_path / "out", size=64, shards=1).report is None
    (tmp_path / "more/c.txt").write_text("another caption")
    with pytest.raises(SceditError, match="has changed since"):
        prepare(photos, tmp_path / "out", size=64, shards=1)


def test_a_link_to_what_is_gone_is_named(photos, tmp_path):
    (photos / "c.png").symlink_to("gone.png")
    assert prepare(photos, tmp_path / "out", size=64).report.rejected == [("c.png", "unreadable", "it does not exist")]


def test_one_lock_whatever_the_folder_is_called(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "out")

    def second(*args):
        for name in ("out", "link", tmp_path / "out"):
            with pytest.raises(SceditError, match="is in use by"):
                prepare(photos, name, size=64, shards=1)
        return []

    monkeypatch.setattr(job, "write_shards", second)
    prepare(photos, "out", size=64, shards=1)


def test_the_folder_one_is_in_and_the_root(photos, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    assert prepare(photos, ".", size=64, shards=1).out == tmp_path / "out"
    assert len(open_dataset(tmp_path / "out")) == 2
    with pytest.raises(SceditError, match="^/ "):
        prepare(photos, "/", size=64)


def test_licences_go_with_the_conditions(photos, tmp_path):
    prepare(photos, tmp_path / "first", size=64)
    annotate(tmp_path / "first", ["canny", "color"], processes=1)
    told = json.loads((tmp_path / "first/licences.json").read_text())
    assert set(told) == {"canny", "color"}
    assert prepare(tmp_path / "first", tmp_path / "again", size=64, shards=1).conditions == ["canny", "color"]
    prepare(tmp_path / "again/shards", tmp_path / "back", size=64)
    for place in ("again", "again/shards", "back"):
        assert json.loads((tmp_path / place / "licences.json").read_text()) == told
    (photos / "licences.json").write_text('["MIT", "CC0"]')  # somebody else's
    prepare(photos, tmp_path / "plain", size=64)
    assert not (tmp_path / "plain/licences.json").exists()


def test_processes_share_what_is_encoded(photos, tmp_path):
    options = ["--out", tmp_path / "out", "--size", 64, "--cache", "latents,text", "--shards", 1]
    document, _ = together(tmp_path, "prepare", photos, *options, "--base", tiny.pipeline_folder(tiny.SMALLEST))
    assert (document["pictures"], document["shards"]) == (2, 2)
    for name in ("latents", "text"):  # each process has written one file of each
        assert len(list((tmp_path / "out/cache").glob(f"{name}-*/*.safetensors"))) == 2
