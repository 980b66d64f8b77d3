"""Stage 6: the shipped tuners, trained by the built-in recipes with more steps and scenes."""

from __future__ import annotations

from pathlib import Path

from scedit_cli.core.weights import load_tuner, save_tuner
from scedit_cli.jobs.progress import Note, Progress
from scedit_cli.jobs.train import train
from scedit_cli.recipe import load_recipe

STEPS = {"canny": 1800, "depth": 1400, "seg": 1400, "color": 1000, "style": 1800}
SCENES = 3000


def train_tuner(name: str, work: Path, out: Path) -> None:
    """Train the tuner of the built-in recipe `name` in WORK/runs, and write it to OUT/tuners in float16."""
    longer = [f"train.steps={STEPS[name]}", f"data.scenes={SCENES}"]
    recipe = load_recipe(name, [*longer, "samples.every=0", "score.scenes=0"])
    result = train(recipe, out=work / "runs" / name, resume=True, on_event=_say)
    tuner = load_tuner(result.tuner)
    path = out / "tuners" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_tuner(tuner.half(), path)


def _say(event: Progress | Note) -> None:
    if isinstance(event, Note):
        print(event.text, flush=True)
    elif event.step % 100 == 0:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in event.values.items())
        print(f"{event.stage}: {event.step}/{event.total} {figures}", flush=True)
