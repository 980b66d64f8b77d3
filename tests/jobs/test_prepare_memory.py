"""`prepare`: memory does not grow with the number of pictures, whatever they come from."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from tests.archives import write_tar
from tests.preparing import prepare


def pictures(count: int) -> dict[str, bytes]:
    files = {}
    for number in range(count):
        buffer = io.BytesIO()
        Image.effect_noise((64, 64), 80).convert("RGB").save(buffer, "PNG", compress_level=0)
        files |= {f"{number:06d}.png": buffer.getvalue(), f"{number:06d}.txt": f"picture {number}".encode()}
    return files


def folder(path: Path, count: int) -> Path:
    path.mkdir()
    for name, data in pictures(count).items():
        (path / name).write_bytes(data)
    return path


def table(path: Path, count: int) -> Path:
    rows = [{"file_name": f"{number:06d}.png", "text": f"picture {number}"} for number in range(count)]
    (folder(path, count) / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def shard(path: Path, count: int) -> Path:
    return write_tar(path.with_suffix(".tar"), pictures(count))


@pytest.mark.parametrize(("make", "few", "many"), [(shard, 300, 800), (folder, 100, 300), (table, 100, 300)])
def test_memory_does_not_grow_with_the_number_of_pictures(make, few, many, tmp_path):
    """What each further picture leaves behind, names included, times 100,000, is below 250 MB."""

    def peak(count: int) -> int:
        source = make(tmp_path / f"src{count}", count)
        tracemalloc.start()
        result = prepare(source, tmp_path / str(count), size=64)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert result.images == count and not result.report.duplicates
        return most

    peak(10)  # what is imported and kept once
    assert (peak(many) - peak(few)) / (many - few) < 2500
