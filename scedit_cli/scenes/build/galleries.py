"""The README's galleries, drawn with the shipped tuners: `python -m scedit_cli.scenes.build.galleries --out FOLDER`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from scedit_cli.core.attach import attach
from scedit_cli.core.weights import load_tuner
from scedit_cli.inference.sampler import grid, sample, to_hints
from scedit_cli.models.base import load_base
from scedit_cli.scenes import TUNERS
from scedit_cli.training.datasets import held_out_scenes

PICTURES = {"controls": ("canny", "depth", "seg", "color"), "more-controls": ("gradient", "normal", "inpaint")}
KINDS = tuple(kind for kinds in PICTURES.values() for kind in kinds)
SHOWN = (0, 2, 6, 11)  # held-out scenes of two to four objects


def draw_all(out: Path, shown: Sequence[int] = SHOWN, steps: int | None = None) -> None:
    """Write OUT/controls.png and OUT/more-controls.png, with the scenes `shown` under each control, and
    OUT/compositions.png, with edges beside a palette and beside the style tuner. `steps` are the sampler's, by default
    the base's."""
    base = load_base("scenes")
    known = held_out_scenes(max(shown) + 1, 0, KINDS, base.defaults.resolution)
    scenes = [known[at] for at in shown]
    texts = [each.text for each in scenes]

    def drawn(*names: str, prompted: bool = True) -> list[Image.Image]:
        tuners = [load_tuner(TUNERS / f"{name}.safetensors") for name in names]
        hints = {name: to_hints(name, [each.conditions[name] for each in scenes]) for name in names if name in KINDS}
        with attach(base.unet, tuners) as edits:
            prompts = texts if prompted else [""] * len(scenes)
            return sample(base, prompts, attachment=edits, hints=hints, seeds=shown, steps=steps)

    given = {kind: [each.conditions[kind] for each in scenes] for kind in KINDS}
    for name, kinds in PICTURES.items():
        columns, headings = [], []
        for kind in kinds:
            columns += [given[kind], drawn(kind)]
            headings += [kind, ""]
        columns.append([each.image for each in scenes])
        grid(list(zip(*columns, strict=True)), [*headings, "reference"], texts).save(out / f"{name}.png")
    compositions = {
        "edges": given["canny"],
        "palette": given["color"],
        "edges alone, no prompt": drawn("canny", prompted=False),
        "palette alone, no prompt": drawn("color", prompted=False),
        "both, no prompt": drawn("canny", "color", prompted=False),
        "edges, prompt, style tuner": drawn("canny", "style"),
    }
    rows = list(zip(*compositions.values(), strict=True))
    grid(rows, list(compositions)).save(out / "compositions.png")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scedit_cli.scenes.build.galleries", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    out = parser.parse_args(arguments).out
    if not out.is_dir():
        parser.error(f"--out {out}: no such folder")
    draw_all(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
