"""The measurements of a card: `python -m scedit_cli.benchmark.cuda --out card.json` makes them all within 25 minutes.

Each method is measured in a process of its own, beside its estimate. The raw JSON names card and versions and is written
after every measurement; what is not reached in time is missing. `--readme scedit_cli/benchmark/README.md` puts the table
in the place of the sentence that no card has measured the estimates.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scedit_cli.benchmark.config import BenchConfig, environment
from scedit_cli.benchmark.isolation import measure_apart
from scedit_cli.benchmark.report import as_markdown
from scedit_cli.utils.errors import SceditError, WorkFailed
from scedit_cli.utils.io import as_json, write_whole
from scedit_cli.utils.reporter import SILENT

METHODS = ("sc", "csc", "lora", "full", "controlnet")
SENTENCE = re.compile(r"\s*No\s+card\s+has\s+measured\s+it\s+yet\.")
_SMALL = (("sc-checkpoint", "int4", "none"), ("sc-checkpoint", "int4", "encoder"), ("csc-checkpoint", "int4", "encoder"))
_STEPS = 10
_MINUTES = 25.0
_MIB = 2**20
_HEADER = ("", "estimated MiB", "measured", "reserved", "estimate / measured", "images/s")
# Ratios of images per second that SCEdit is to reach at a base's own resolution: (method, peer, least).
GOALS = (("sc", "lora", 1.17), ("sc", "full", 1.58), ("csc", "controlnet", 1.45))
NEAR = 0.08  # how far a measurement may be from its estimate


@dataclass(frozen=True)
class Case:
    """A measurement to make."""

    method: str
    setting: BenchConfig


def cases(
    bases: Sequence[tuple[str, Sequence[int]]], methods: Sequence[str], resolution: int | None, steps: int
) -> list[Case]:
    """Return the measurements, the most telling first: every base at its first batches, then quantised and offloaded
    bases, then the other batches.

    Args:
        bases: names with the batch sizes of each.
        methods: names from METHODS.
        resolution: the images' side; by default each base's own.
        steps: timed steps of each.
    """
    plain = [
        [Case(method, BenchConfig(base, batch, resolution, steps=steps)) for method in methods]
        for base, batches in bases
        for batch in batches
    ]
    small = [
        Case(method, BenchConfig(base, batches[0], resolution, steps=steps, quantize=quantize, offload=offload))
        for base, batches in bases
        for method, quantize, offload in _SMALL
    ]
    firsts = {sum(len(batches) for _, batches in bases[:number]) for number in range(len(bases))}
    first = [each for number, several in enumerate(plain) if number in firsts for each in several]
    return first + small + [each for number, several in enumerate(plain) if number not in firsts for each in several]


def run(wanted: Sequence[Case], out: Path, minutes: float, device: str | None = None) -> dict[str, Any]:
    """Make the measurements and return the document, which `out` holds after each of them."""
    ends = time.monotonic() + 60 * minutes
    document: dict[str, Any] = {"environment": environment(), "device": None, "results": [], "failed": []}
    for number, case in enumerate(wanted):
        about = {"method": case.method} | {name: v for name, v in asdict(case.setting).items() if v is not None}
        if number and time.monotonic() > ends:
            document["failed"].append(about | {"reason": f"not reached in {minutes:g} minutes"})
            continue
        try:
            found = measure_apart(case.method, case.setting, SILENT, device)
        except (SceditError, WorkFailed) as error:
            document["failed"].append(about | {"reason": error.message})
        else:
            document["device"] = found.setting.device
            document["results"].append({"setting": asdict(found.setting), **found.figures.document()})
        write_whole(out, as_json(document))
        sys.stderr.write(f"{len(document['results']) + len(document['failed'])} of {len(wanted)}: {case.method}\n")
    write_whole(out, as_json(document))
    return document


def table(document: dict[str, Any]) -> str:
    """Return the table in Markdown, and a line for each goal of speed that two of its rows tell of."""
    rows, speeds = [], {}
    for each in document["results"]:
        setting = each["setting"]
        where = f"{setting['base']} {setting['resolution']}², batch {setting['batch']}"
        stored = [setting["quantize"]] * (setting["quantize"] != "none")
        stored += ["encoder offloaded"] * (setting["offload"] != "none")
        estimated, measured = each["estimated_peak_memory"], each["peak_memory"]
        sizes = [f"{size / _MIB:,.0f}" if size else "–" for size in (estimated, measured, each["peak_reserved"])]
        name = ", ".join([where, each["method"], *stored])
        rows.append([name, *sizes, f"{estimated / measured:.3f}", f"{each['images_per_second']:.2f}"])
        if not stored:
            speeds[where, each["method"]] = each["images_per_second"]
    lines = []
    for (where, method), speed in speeds.items():
        for ours, peer, least in GOALS:
            if method == ours and (where, peer) in speeds:
                ratio = speed / speeds[where, peer]
                lines.append(f"{where}: {ours} makes {ratio:.2f} times the images/s of {peer} (goal {least}).")
    about = document["environment"]
    versions = ", ".join(f"{name} {about[name]}" for name in ("torch", "diffusers", "peft", "cuda") if name in about)
    title = f"Measured on {document['device']} with {versions}:"
    return "\n".join([title, "", as_markdown(_HEADER, rows), *lines]) + "\n"


def fill_in(readme: Path, text: str) -> None:
    """Put `text` after the paragraph that holds SENTENCE, and take the sentence out.

    Raises:
        SceditError: the file does not hold the sentence.
    """
    content = readme.read_text("utf-8")
    found = SENTENCE.search(content)
    if not found:
        raise SceditError(f"{readme} does not say that no card has measured the estimates", hint="edit it by hand")
    rest, _, later = content[found.end() :].partition("\n\n")
    write_whole(readme, f"{content[: found.start()]}{rest.rstrip()}\n\n{text}\n{later}".encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write and print; return the exit code."""
    parser = argparse.ArgumentParser("python -m scedit_cli.benchmark.cuda", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("card.json"))
    parser.add_argument("--readme", type=Path)
    parser.add_argument("--bases", nargs="+", default=["sd15:1,8,16", "sdxl:1,4"], metavar="BASE:BATCHES")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--steps", type=int, default=_STEPS)
    parser.add_argument("--minutes", type=float, default=_MINUTES)
    parser.add_argument("--device", help="by default the accelerator; cpu tries the script out")
    given = parser.parse_args(arguments)
    import torch

    if given.device is None and not torch.cuda.is_available():
        sys.stderr.write("error: there is no CUDA card here; scedit bench --estimate needs none\n")
        return 2
    bases = [(name, [int(n) for n in sizes.split(",")]) for name, _, sizes in (b.partition(":") for b in given.bases)]
    document = run(cases(bases, given.methods, given.resolution, given.steps), given.out, given.minutes, given.device)
    if not document["results"]:
        sys.stderr.write(f"error: nothing could be measured: {document['failed'][0]['reason']}\n")
        return 1
    text = table(document)
    sys.stdout.write(text)
    far = [each for each in document["results"] if abs(each["estimated_peak_memory"] / each["peak_memory"] - 1) > NEAR]
    sys.stdout.write(f"{len(far)} of {len(document['results'])} estimates are more than {NEAR:.0%} off.\n")
    if given.readme:
        fill_in(given.readme, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
