"""How fast `prepare` is, and whether its memory stays flat: `python -m tests.jobs.prepare_speed [ENTRIES]`.

Pictures a second, and the processor's time for each, of two processes of a plain Pillow loop and of `prepare`, turn by
turn: the loop decodes and resizes as prepare does and keeps nothing, or writes JPEGs, or PNGs as quickly as Pillow can.
The pictures are JPEGs of 960 x 640 pixels, as people collect them, and of 4000 x 3000, as cameras make them, cut out of
scikit-image's photographs. With ENTRIES, instead: the memory that prepare holds over so many small pictures.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from PIL import Image

from scedit_cli.data.buckets import bucket, fit
from scedit_cli.jobs.prepare import prepare
from tests.jobs.annotate_speed import crops

SIDE, ROUNDS = 512, 3
WAYS = {"keeps nothing": None, "writes JPEGs": {"quality": 95}, "writes PNGs": {"compress_level": 1}}


def photographs(folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "images").mkdir()
        whole = [Image.open(file).convert("RGB") for file in crops(Path(place), min(count, 40))]
    folder.mkdir()
    files = []
    for number in range(count):
        picture = whole[number % len(whole)].resize(size, Image.Resampling.LANCZOS)
        picture.putpixel((0, 0), (number % 256, number // 256, 0))
        files.append(folder / f"{number:06d}.jpg")
        picture.save(files[-1], quality=90)
        files[-1].with_suffix(".txt").write_text(f"picture {number}")
    return files


def plain(file: Path, out: Path, options: dict | None) -> None:
    picture = Image.open(file).convert("RGB")
    cut = fit(picture.size, bucket(picture.size, SIDE, 64))
    picture = picture.resize(cut.size, Image.Resampling.LANCZOS, cut.box)
    if options is not None:
        picture.save(out / (file.stem + (".jpg" if "quality" in options else ".png")), **options)


def by_two(files: list[Path], pool, out: Path, options: dict | None) -> None:
    out.mkdir(exist_ok=True)
    pool.map(partial(plain, out=out, options=options), files, chunksize=-(-len(files) // 2))


def timed(work, processes: list[psutil.Process]) -> tuple[float, float]:
    """Seconds of the clock, and of the processor in this process and `processes`."""

    def busy() -> float:
        return sum(sum(each.cpu_times()[:2]) for each in (psutil.Process(), *processes))

    clock, before = time.perf_counter(), busy()
    work()
    return time.perf_counter() - clock, busy() - before


def speed(place: Path, size: tuple[int, int], count: int) -> None:
    files = photographs(place / "photos", size, count)
    with get_context("spawn").Pool(2) as pool:
        workers = psutil.Process().children(recursive=True)
        pool.map(partial(plain, out=place, options=None), files[:8])  # both have started
        prepare(files[0].parent, place / "warm", size=SIDE)
        found: dict[str, list[tuple[float, float]]] = {}
        for number in range(ROUNDS):
            for name, options in WAYS.items():
                work = partial(by_two, files, pool, place / name, options)
                found.setdefault(name, []).append(timed(work, workers))
            ours = partial(prepare, files[0].parent, place / f"out-{number}", size=SIDE)
            found.setdefault("prepare", []).append(timed(ours, workers))
    clock, busy = ({name: median(each[at] for each in runs) for name, runs in found.items()} for at in (0, 1))
    print(f"{count} JPEGs of {size[0]} x {size[1]}:")
    for name in found:
        print(
            f"  {name}: {count / clock[name]:.1f} pictures/s, {1000 * busy[name] / count:.1f} ms of processor each; "
            f"prepare is {clock[name] / clock['prepare']:.2f} times as fast, {busy[name] / busy['prepare']:.2f} by "
            "processor time",
            flush=True,
        )


def memory(place: Path, count: int) -> None:
    """Small pictures that no two look alike."""
    photos = place / "many"
    photos.mkdir()
    draw = np.random.default_rng(0)
    for number in range(count):
        buffer = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((72, 64)).save(buffer, "JPEG")
        (photos / f"{number:06d}.jpg").write_bytes(buffer.getvalue())
        (photos / f"{number:06d}.txt").write_text(f"picture {number}")
    me, seen, began = psutil.Process(), {}, time.perf_counter()

    def look(event) -> None:
        seen[getattr(event, "step", 0)] = me.memory_info().rss / 2**20

    result = prepare(photos, place / "out", size=64, on_event=look)
    seconds, steps = time.perf_counter() - began, sorted(seen)
    tenths = [median(seen[s] for s in steps if part * count <= 10 * s <= (part + 1) * count) for part in range(10)]
    print(
        f"{result.pictures} of {count} pictures in {seconds:.0f} s, {count / seconds:.0f} a second; at most "
        f"{max(seen.values()):.0f} MiB, by tenths of the way {[round(each) for each in tenths]}"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        if len(sys.argv) > 1:
            return memory(Path(place), int(sys.argv[1]))
        for number, (size, count) in enumerate({(960, 640): 200, (4000, 3000): 24}.items()):
            (Path(place) / str(number)).mkdir()
            speed(Path(place) / str(number), size, count)


if __name__ == "__main__":
    main()
