"""Zips and shards from strangers: nothing appears outside the dataset folder, no link is followed, no bomb unpacked."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from scedit_cli.data.images import LARGEST_FILE
from scedit_cli.utils.errors import SceditError
from tests.faults.box import faults, folder_in_memory, try_each
from tests.faults.mutations import ESCAPES, HTML, MARKUP, NESTED, changed, damaged
from tests.preparing import prepare

SECONDS = 5.0
DAMAGED = 300
NAMES = (
    "../outside.png", "../../outside.png", "/outside.png", "//outside.png", "a/../../outside.png", "..\\outside.png",
    "C:\\outside.png", "~/outside.png", "./../outside.png", "images/../../outside.png", f"{ESCAPES}.png",
    f"{MARKUP}.png", f"{HTML}.png", "line\nbreak.png", "x" * 250 + ".png", "ä.png", "con.png", " .png",
    "a/b/c/d/e/f.png", "-rf.png",
)  # fmt: skip


@dataclass(frozen=True)
class Archive:
    name: str
    suffix: str
    data: bytes

    def __str__(self) -> str:
        return f"{self.name}{self.suffix}"


def picture(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    draw = np.random.default_rng(seed)
    Image.fromarray(draw.integers(0, 256, (72, 72, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def gradient() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((72, 72)).save(buffer, "BMP")
    return buffer.getvalue()


def zipped(files: dict[str, bytes], **options: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, options.get("compression"), options.get("compresslevel"))
    return buffer.getvalue()


def tarred(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w", **options: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, **options) as archive:
        for about, data in members:
            if about.type == tarfile.REGTYPE:
                about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    about = tarfile.TarInfo(name)
    about.type, about.linkname = kind, link
    return about


def archives() -> Iterator[Archive]:
    good = {"a.png": picture(1), "a.txt": b"a caption"}
    whole = [(member(name), data) for name, data in good.items()]
    yield Archive("whole", ".zip", zipped(good))
    yield Archive("whole", ".tar", tarred(*whole))
    for name in NAMES:
        yield Archive(f"name {name[:20]!r}", ".zip", zipped(good | {name: picture(2)}))
        yield Archive(f"name {name[:20]!r}", ".tar", tarred(*whole, (member(name), picture(2))))
        row = json.dumps({"file_name": name, "text": "x", "depth_file_name": name}) + "\n"
        yield Archive(f"table names {name[:20]!r}", ".zip", zipped(good | {"metadata.jsonl": row.encode()}))
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    for kind in kinds:
        for link in ("/etc/passwd", "../../outside.png", "a.png", "b.png"):
            special = member("b.png", kind, link), b""
            yield Archive(f"member of type {kind} to {link}", ".tar", tarred(*whole, special))
    link = zipfile.ZipInfo("b.png")
    link.external_attr = 0o120777 << 16
    buffer = io.BytesIO(zipped(good))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    yield Archive("a link", ".zip", buffer.getvalue())
    deflated = {"compression": zipfile.ZIP_DEFLATED, "compresslevel": 1}
    for name in ("b.png", "a.txt", "metadata.jsonl"):
        yield Archive(f"bomb {name}", ".zip", zipped(good | {name: bytes(LARGEST_FILE + 1)}, **deflated))
    for name in ("b.png", "b.txt"):
        bomb = member(name), bytes(LARGEST_FILE + 1)
        yield Archive(f"bomb {name}", ".tar", tarred(*whole, bomb, mode="w:gz", compresslevel=1))
    claimed = member("b.png")
    claimed.size = 2**40
    yield Archive("a terabyte claimed", ".tar", tarred(*whole)[:-9216] + claimed.tobuf() + bytes(1024))
    entry = bytearray(zipped({"a.png": picture()}))
    at = entry.rindex(b"PK\x01\x02")
    entry[at + 24 : at + 28] = struct.pack("<I", 2**32 - 2)
    yield Archive("four gigabytes claimed", ".zip", bytes(entry))
    yield Archive("100,000 files", ".zip", zipped({f"{i}.txt": b"" for i in range(100_000)} | good))
    yield Archive("a name twice", ".zip", zipped(good)[:-22] + zipped(good))
    yield Archive("a table nested deep", ".zip", zipped(good | {"metadata.jsonl": NESTED.encode()}))
    yield Archive("JSON nested deep", ".tar", tarred(*whole, (member("a.json"), NESTED.encode())))
    endless = b'{"file_name": ' + b"1" * 9999 + b"}"
    yield Archive("a number without end", ".zip", zipped(good | {"metadata.jsonl": endless}))
    plain, encrypted = (b"PK\x03\x04\x14\x00" + bytes((flag, 0)) for flag in (0, 1))
    yield Archive("encrypted", ".zip", zipped(good).replace(plain, encrypted))
    for data in (b"", b"PK\x05\x06" + bytes(18), b"\x1f\x8b", bytes(10240), zlib.compress(bytes(9))):
        for suffix in (".zip", ".tar"):
            yield Archive(f"{len(data)} bytes", suffix, data)
    rows = [{"file_name": "a.png", "text": "x", "width": 3, "seed": 1.5, "canny_file_name": "a.png"}]
    table = "".join(json.dumps({"file_name": name, "text": "x" * 99}) + "\n" for name in ("a.bmp", "b.bmp"))
    smooth = dict.fromkeys(("a.bmp", "b.bmp"), gradient()) | {"metadata.jsonl": table.encode()}  # which compress well
    yield Archive("a name in no UTF-8", ".zip", zipped({"ä.png": picture()}).replace("ä".encode(), b"\xff\xff"))
    rng = random.Random(2)
    for number in range(DAMAGED):
        table = "\n".join(json.dumps(row) for row in changed(rows, rng) * 2).encode()
        yield Archive(f"{number}: table", ".zip", zipped(good | {"metadata.jsonl": table}))
        packed = zipped(smooth, compression=rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
        yield Archive(f"{number}: zip", ".zip", damaged(packed, rng))
        yield Archive(f"{number}: tar", ".tar", damaged(tarred(*whole, mode=rng.choice(("w", "w:gz"))), rng))


def test_archives(tried) -> None:
    with folder_in_memory() as folder:

        def work(archive: Archive) -> str:
            own = folder / str(os.getpid()) / "deep" / "inside"
            own.mkdir(parents=True, exist_ok=True)
            source, out = own / f"source{archive.suffix}", own / "out"
            source.write_bytes(archive.data)
            try:
                made = prepare(source, out, size=64, allow_captionless=True)
                seen = {path.relative_to(out).parts[0] for path in out.rglob("*")}
                assert seen <= {"images", "conditions", "metadata.jsonl", "report.json", "overview.png"}, seen
                assert not any(path.is_symlink() for path in out.rglob("*"))
                return f"{made.images} images"
            except SceditError:
                assert not out.exists()
                raise
            finally:
                left = sorted(own.parent.parent.rglob("*"))
                assert not [path for path in left if "outside" in path.name]
                remove(own)
                remove(out)

        cases = list(archives())
        outcomes = try_each(cases, work, SECONDS)
        assert not list(Path("/").glob("outside*"))
    tried("archives", len(outcomes))
    assert faults(outcomes, SECONDS) == ""
    assert [each.said for each in outcomes[:2]] == ["1 images"] * 2
    assert {each.what for each in outcomes} == {"fine", "refused"}


def remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
