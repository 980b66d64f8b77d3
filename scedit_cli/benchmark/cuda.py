"""The measurements of a card: `python -m scedit_cli.benchmark.cuda --out card.json` makes them all within 25 minutes.

Each method is measured in a process of its own, beside its estimate, while other processes estimate the next ones. The
raw JSON names card and versions and is written after every measurement; what is not reached in time is missing, and the
same command goes on from there. The table that it prints last is the one of the benchmark's README.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scedit_cli.benchmark.config import BenchConfig, environment
from scedit_cli.benchmark.isolation import measure_apart
from scedit_cli.benchmark.report import as_markdown
from scedit_cli.utils.errors import SceditError, WorkFailed
from scedit_cli.utils.io import as_json, read_json, write_whole
from scedit_cli.utils.reporter import SILENT

METHODS = ("sc", "csc", "lora", "full", "controlnet")
# Methods with little memory: the method, and the base's storage.
SMALL = (
    ("sc-checkpoint", "none", "none"), ("sc-checkpoint", "int4", "none"), ("sc-checkpoint", "int4", "encoder"),
    ("csc-checkpoint", "none", "none"), ("csc-checkpoint", "int4", "none"), ("csc-checkpoint", "int4", "encoder"),
    ("csc-checkpoint", "none", "encoder"), ("lora-checkpoint", "none", "none"), ("lora-checkpoint", "int4", "none"),
)  # fmt: skip
# The settings of ms-swift's published measurements: float32, and LoRA on the feed-forward layers too.
PUBLISHED = tuple((method, batch) for batch in (1, 10, 30) for method in ("sc-plain", "lora"))
_STEPS = 10
_MINUTES = 25.0
_MIB = 2**20
_HEADER = ("", "estimated MiB", "measured", "reserved", "estimate / measured", "images/s")
PAIRS = (("sc", "lora"), ("sc", "full"), ("csc", "controlnet"))  # methods whose speeds are compared
NEAR = 0.08  # how far a measurement may be from its estimate


@dataclass(frozen=True)
class Case:
    """A measurement to make."""

    method: str
    setting: BenchConfig

    @property
    def name(self) -> dict[str, Any]:
        """The method and what is set, as the raw JSON names the case."""
        return {"method": self.method} | {name: v for name, v in asdict(self.setting).items() if v not in (None, ())}


def cases(
    bases: Sequence[tuple[str, Sequence[int]]],
    methods: Sequence[str],
    resolution: int | None,
    steps: int,
    published: bool = False,
) -> list[Case]:
    """Return the measurements, the most telling first: every base at its first batch, then methods with little memory,
    then the other batches, and then other people's settings.

    Args:
        bases: names with the batch sizes of each.
        methods: names from METHODS.
        resolution: the images' side; by default each base's own.
        steps: timed steps of each.
        published: whether the settings of PUBLISHED are measured too.
    """

    def setting(base: str, batch: int, **more: Any) -> BenchConfig:
        return BenchConfig(base, batch, resolution, steps=steps, **more)

    first = [Case(method, setting(base, batches[0])) for base, batches in bases for method in methods]
    small = [
        Case(method, setting(base, batches[0], quantize=quantize, offload=offload))
        for base, batches in bases
        for method, quantize, offload in SMALL
    ]
    later = [
        Case(method, setting(base, batch)) for base, batches in bases for batch in batches[1:] for method in methods
    ]
    others = [
        Case(method, BenchConfig("sd15", batch, 512, "fp32", lora_feed_forward=method == "lora", steps=steps))
        for method, batch in PUBLISHED
    ]
    return first + small + later + others * published


def run(
    wanted: Sequence[Case], out: Path, minutes: float, device: str | None = None, at_once: int = 1
) -> dict[str, Any]:
    """Make the measurements and return the document, which `out` holds after each of them. What `out` holds already is
    not measured again.

    Args:
        wanted: the measurements.
        out: the JSON file.
        minutes: the time after which no further one is begun, except the first.
        device: by default the accelerator.
        at_once: the number of processes, of which one uses the device while the others estimate.
    """
    ends = time.monotonic() + 60 * minutes
    before = read_json(out.read_text("utf-8"))["results"] if out.exists() else []
    found = {number: each for number, case in enumerate(wanted) for each in before if each.get("case") == case.name}
    failed: dict[int, dict[str, Any]] = {}
    device_lock = threading.Lock() if at_once > 1 else nullcontext()
    file_lock = threading.Lock()

    def document() -> dict[str, Any]:
        results = [found[number] for number in sorted(found)]
        name = results[0]["setting"]["device"] if results else None
        reasons = [failed[number] for number in sorted(failed)]
        return {"environment": environment(), "device": name, "results": results, "failed": reasons}

    def make(number: int) -> None:
        case = wanted[number]
        if (number or found) and time.monotonic() > ends:
            failed[number] = case.name | {"reason": f"not reached in {minutes:g} minutes"}
            return
        try:
            made = measure_apart(case.method, case.setting, SILENT, device, device_lock)
        except (SceditError, WorkFailed) as error:
            failed[number] = case.name | {"reason": error.message}
        else:
            found[number] = {"case": case.name, "setting": asdict(made.setting), **made.figures.document()}
        with file_lock:
            write_whole(out, as_json(document()))
            what = failed[number]["reason"] if number in failed else "measured"
            sys.stderr.write(f"{len(found) + len(failed)} of {len(wanted)}: {case.method}, {what}\n")

    left = [number for number in range(len(wanted)) if number not in found]
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(make, left))
    write_whole(out, as_json(document()))
    return document()


def table(document: dict[str, Any]) -> str:
    """Return the table in Markdown, and a line for each goal of speed that two of its rows tell of."""
    rows, speeds = [], {}
    for each in document["results"]:
        setting = each["setting"]
        where = f"{setting['base']} {setting['resolution']}², batch {setting['batch']}"
        stored = [setting["quantize"]] * (setting["quantize"] != "none")
        stored += ["encoder offloaded"] * (setting["offload"] != "none")
        stored += ["float32"] * (setting["dtype"] == "fp32") + ["with feed-forward"] * setting["lora_feed_forward"]
        estimated, measured = each["estimated_peak_memory"], each["peak_memory"]
        sizes = [f"{size / _MIB:,.0f}" if size else "–" for size in (estimated, measured, each["peak_reserved"])]
        name = ", ".join([where, each["method"], *stored])
        rows.append([name, *sizes, f"{estimated / measured:.3f}", f"{each['images_per_second']:.2f}"])
        if not stored:
            speeds[where, each["method"]] = each["images_per_second"]
    lines = [
        f"{where}: {ours} makes {speeds[where, ours] / speeds[where, peer]:.2f} times the images/s of {peer}."
        for where in dict.fromkeys(where for where, _ in speeds)
        for ours, peer in PAIRS
        if (where, ours) in speeds and (where, peer) in speeds
    ]
    about = document["environment"]
    versions = ", ".join(f"{name} {about[name]}" for name in ("torch", "diffusers", "peft", "cuda") if name in about)
    title = f"Measured on {document['device']} with {versions}:"
    return "\n".join([title, "", as_markdown(_HEADER, rows), *lines]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write and print; return the exit code."""
    parser = argparse.ArgumentParser("python -m scedit_cli.benchmark.cuda", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("card.json"))
    parser.add_argument("--bases", nargs="+", default=["sd15:1,8,16", "sdxl:1,4"], metavar="BASE:BATCHES")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--steps", type=int, default=_STEPS)
    parser.add_argument("--minutes", type=float, default=_MINUTES)
    parser.add_argument("--published", action="store_true", help="measure other people's settings too")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="processes: one measures, others estimate")
    parser.add_argument("--device", help="by default the accelerator; cpu tries the script out")
    given = parser.parse_args(arguments)
    import torch

    if given.device is None and not torch.cuda.is_available():
        sys.stderr.write("error: there is no CUDA card here; scedit bench --estimate needs none\n")
        return 2
    bases = [(name, [int(n) for n in sizes.split(",")]) for name, _, sizes in (b.partition(":") for b in given.bases)]
    wanted = cases(bases, given.methods, given.resolution, given.steps, given.published)
    document = run(wanted, given.out, given.minutes, given.device, given.at_once)
    if not document["results"]:
        sys.stderr.write(f"error: nothing could be measured: {document['failed'][0]['reason']}\n")
        return 1
    text = table(document)
    sys.stdout.write(text)
    far = [each for each in document["results"] if abs(each["estimated_peak_memory"] / each["peak_memory"] - 1) > NEAR]
    sys.stdout.write(f"{len(far)} of {len(document['results'])} estimates are more than {NEAR:.0%} off.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
