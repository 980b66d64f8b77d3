"""Stage 7: the shipped tuners, trained by the built-in recipes with more steps and scenes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from scedit_cli.core.weights import load_tuner, save_tuner
from scedit_cli.jobs.train import train
from scedit_cli.utils.reporter import Reporter

STEPS = {
    "canny": 6800, "seg": 6400, "depth": 4400, "color": 4000, "style": 4800, "normal": 3200, "inpaint": 3200,
    "gradient": 3200,
}  # fmt: skip
SCENES = 8000


def train_tuner(name: str, work: Path, out: Path) -> None:
    """Train the tuner of the built-in recipe `name` in WORK/runs, and write it to OUT/tuners in float16."""
    longer = {"train.steps": STEPS[name], "data.scenes": SCENES, "samples.every": 0, "score.scenes": 0}
    result = train(name, overrides=longer, out=work / "runs" / name, resume=True, reporter=_Printed())
    tuner = load_tuner(result.tuner)
    path = out / "tuners" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_tuner(tuner.half(), path)


class _Printed(Reporter):
    def progress(self, step: int, total: int, stage: str = "", values: Mapping[str, float] = {}) -> None:
        if step % 100 == 0:
            figures = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            print(f"{stage}: {step}/{total} {figures}", flush=True)

    def note(self, text: str) -> None:
        print(text, flush=True)
