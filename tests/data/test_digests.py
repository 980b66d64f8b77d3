"""Remembered digests: what a memo says is taken where it has the right form, and everything else is read again."""

from __future__ import annotations

import hashlib
import json

import pytest

from scedit_cli.data.digests import digests

DIGEST = hashlib.sha256(b"content").hexdigest()[:32]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    return tmp_path / "a"


def test_a_digest_is_remembered_until_the_file_changes(file, tmp_path):
    assert digests(tmp_path, [file], tmp_path / "memo") == [DIGEST]
    stamp = [7, file.stat().st_mtime_ns]
    assert json.loads((tmp_path / "memo").read_text()) == {"a": [*stamp, DIGEST]}
    (tmp_path / "memo").write_text(json.dumps({"a": [*stamp, "0" * 32]}))
    assert digests(tmp_path, [file], tmp_path / "memo") == ["0" * 32]
    file.write_bytes(b"other content")
    assert digests(tmp_path, [file], tmp_path / "memo") == [hashlib.sha256(b"other content").hexdigest()[:32]]


@pytest.mark.parametrize("memo", ["", "[]", "null", "7", '{"a": 1}', '{"a": []}', '{"a": [SIZE, TIME]}',
                                  '{"a": [SIZE, TIME, 5]}', '{"a": [SIZE, TIME, "../../a"]}', "[" * 9999])  # fmt: skip
def test_a_memo_of_another_form_counts_for_nothing(file, tmp_path, memo):
    text = memo.replace("SIZE", "7").replace("TIME", str(file.stat().st_mtime_ns))
    (tmp_path / "memo").write_text(text)
    assert digests(tmp_path, [file], tmp_path / "memo") == [DIGEST]
