"""How fast `annotate` is, and whether its memory stays flat: `python -m tests.jobs.annotate_speed [PICTURES]`.

Pictures a second, and the processor's time for each, of a plain loop over controlnet_aux's detector and of `annotate`,
turn by turn, over 200 crops of 512 pixels from the photographs that come with scikit-image; then the memory of all of
annotate's processes over PICTURES.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import skimage
from PIL import Image

from scedit_cli import conditions
from scedit_cli.conditions.detectors import detector
from scedit_cli.data.dataset import row_of, write_rows
from scedit_cli.data.images import open_picture
from scedit_cli.jobs.annotate import annotate

PHOTOS = "astronaut chelsea coffee rocket motorcycle_left motorcycle_right hubble_deep_field retina ihc camera".split()
ROUNDS = 3


def crops(folder: Path, count: int = 200, side: int = 512) -> list[Path]:
    """Crops at random places of photographs whose shorter side is at least 560 pixels, or is made so."""
    rng, files = np.random.default_rng(0), []
    for number in range(count):
        name = PHOTOS[number % len(PHOTOS)]
        [file] = (Path(skimage.__file__).parent / "data").glob(f"{name}.*")
        photo = open_picture(file)  # in sRGB, which annotate would make of it too
        scale = max(1.0, 560 / min(photo.size))
        photo = photo.resize([round(scale * length) for length in photo.size], Image.Resampling.LANCZOS)
        left, top = (int(rng.integers(length - side + 1)) for length in photo.size)
        files.append(folder / f"images/{number:06d}.png")
        photo.crop((left, top, left + side, top + side)).save(files[-1], compress_level=1)
    return files


def processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def timed(work) -> tuple[float, float]:
    wall, busy = time.perf_counter(), processor_seconds()
    work()
    return time.perf_counter() - wall, processor_seconds() - busy


def plain_loop(files: list[Path], out: Path) -> None:
    detect = detector("canny").CannyDetector()
    out.mkdir(exist_ok=True)
    for file in files:
        detect(Image.open(file)).save(out / file.name)


def one_picture(file: Path) -> None:
    picture, detect = Image.open(file).convert("RGB"), detector("canny").CannyDetector()
    ways = {"controlnet_aux": lambda: detect(picture), "scedit": lambda: conditions.annotate("canny", picture)}
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(100):
        for name, way in ways.items():
            wall, _ = timed(way)
            best[name] = min(best[name], wall)
    told = ", ".join(f"{name} {1000 * seconds:.2f} ms" for name, seconds in best.items())
    print(f"one picture: {told}, ratio {best['scedit'] / best['controlnet_aux']:.2f}")


def memory(folder: Path, files: list[Path], count: int) -> None:
    many = folder.with_name("many")
    (many / "images").mkdir(parents=True)
    for number in range(count):
        os.link(files[number % len(files)], many / f"images/{number:06d}.png")
    write_rows(many, [row_of(f"{number:06d}.png", "", ()) for number in range(count)])
    me, seen = psutil.Process(), {}

    def look(event) -> None:
        every = [me, *me.children(recursive=True)]
        seen[event.step] = sum(process.memory_info().rss for process in every) / 2**20

    annotate(many, "canny", on_event=look)
    tenth = max(1, len(seen) // 10)
    values = list(seen.values())
    parts = [median(values[at : at + tenth]) for at in range(tenth, len(values) - tenth + 1, tenth)]
    print(f"memory over {count} pictures, in MiB, median of each tenth after the first: {[round(p) for p in parts]}")


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        (folder / "images").mkdir(parents=True)
        files = crops(folder)
        write_rows(folder, [row_of(file.name, "", ()) for file in files])
        one_picture(files[0])
        plain, ours = [], []
        for _ in range(ROUNDS):
            plain.append(timed(lambda: plain_loop(files, folder.with_name("plain"))))
            ours.append(timed(lambda: annotate(folder, "canny", overwrite=True)))
            (wall, busy), (our_wall, our_busy) = plain[-1], ours[-1]
            print(
                f"plain loop {len(files) / wall:.1f} pictures/s, {1000 * busy / len(files):.1f} ms of processor each; "
                f"annotate {len(files) / our_wall:.1f} pictures/s, {1000 * our_busy / len(files):.1f} ms; "
                f"ratio {wall / our_wall:.2f}"
            )
        for file in files:
            mine = np.asarray(Image.open(folder / "conditions/canny" / file.name))
            theirs = np.asarray(Image.open(folder.with_name("plain") / file.name).convert("L"))
            assert np.array_equal(mine, theirs), file
        if len(sys.argv) > 1:
            memory(folder, files, int(sys.argv[1]))


if __name__ == "__main__":
    main()
