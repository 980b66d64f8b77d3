"""Two conditions trained in one run beside two tuners trained apart, for the same processor seconds.

`python -m scedit_cli.benchmark.together` trains on the embedded world a bundle for canny and color, and a tuner for
each in half of the seconds, evaluates them on held-out scenes together and alone, and prints a table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from scedit_cli.benchmark.config import environment, processor_name
from scedit_cli.benchmark.report import as_markdown
from scedit_cli.benchmark.requests import EvaluationRequest
from scedit_cli.benchmark.timing import timed
from scedit_cli.benchmark.tuner_evaluation import evaluate_tuners
from scedit_cli.core.bundle import tuners_of
from scedit_cli.core.tuners import CSCTuner
from scedit_cli.core.weights import load_tuner, save_tuner
from scedit_cli.data.cache import cache_latents_and_text, component_digests
from scedit_cli.data.dataset import Dataset
from scedit_cli.inference.sampling_options import SamplingOptions
from scedit_cli.models.base import Base
from scedit_cli.recipe import Recipe, load_recipe
from scedit_cli.training import builders
from scedit_cli.training.datasets import rendered_scenes
from scedit_cli.training.trainer import Trainer
from scedit_cli.utils.errors import SceditError, WorkFailed
from scedit_cli.utils.io import as_json, write_whole
from scedit_cli.utils.result_cache import ResultCache
from scedit_cli.utils.specs import TunerSpec

KINDS = "canny", "color"
APART = "apart"
FIGURES = {  # of an arm and seed, in the order of the table
    "both": "mean of both, together",
    "canny": "canny, together",
    "color": "color, together",
    "canny_alone": "canny alone",
    "color_alone": "color alone",
}
_WARM_UP, _TIMED = 2, 9  # steps of each part, to measure the seconds of one


@dataclass(frozen=True)
class Budget:
    """What every arm and seed gets.

    Attributes:
        seconds: processor seconds of training; each of the tuners that are trained apart takes half of them.
        batch: images in a step.
        training_scenes, scenes: the numbers of scenes to train on, and held out to evaluate on.
        sampling_steps: the sampler's steps in the evaluation.
    """

    seconds: float = 300.0
    batch: int = 16
    training_scenes: int = 1024
    scenes: int = 64
    sampling_steps: int = 10


@dataclass(frozen=True)
class Part:
    """One training: its conditions, their hint dropout, and its share of the arm's seconds."""

    kinds: tuple[str, ...]
    hint_dropout: float = 0.0
    share: float = 1.0

    @property
    def name(self) -> str:
        return "-".join(self.kinds) + (f"-dropout{self.hint_dropout:g}" if self.hint_dropout else "")


def arms(hint_dropouts: Sequence[float]) -> dict[str, list[Part]]:
    """Return the trainings of each arm by its name: the tuners apart, and a bundle for each share of hint dropout."""
    found = {APART: [Part((kind,), share=1 / len(KINDS)) for kind in KINDS]}
    for share in hint_dropouts:
        found[f"one bundle, hint dropout {share:g}"] = [Part(KINDS, share)]
    return found


class Comparison:
    """The trainings and evaluations of all arms; `work` keeps those that are finished, for a later call.

    Args:
        log: called with a sentence about each finished piece of work.
    """

    def __init__(self, budget: Budget, work: Path, log: Callable[[str], object] = lambda text: None) -> None:
        self.budget, self.work, self.log = budget, work, log
        self.kept = ResultCache(work)
        self.base = self._opened()
        self.base_digests = component_digests(self.base)

    @cached_property
    def dataset(self) -> Dataset:
        return rendered_scenes(self.budget.training_scenes, 0, "plain", KINDS)

    def document(self, hint_dropouts: Sequence[float], seeds: int) -> dict[str, Any]:
        """Train and evaluate what is missing, and return the document: environment, budget, recipe, the seconds of a
        step, and under "results" arm, seed, trainings and control scores."""
        wanted = arms(hint_dropouts)
        for parts in wanted.values():
            for part in parts:
                self._recipe(part, 1, 0)  # mistakes come before the first training
        paces = self._paces([*(Part((kind,)) for kind in KINDS), Part(KINDS)])
        results = []
        for seed in range(seeds):  # A seed at a time, so that a stopped comparison has whole ones.
            for arm, parts in wanted.items():
                trainings = [self._training(part, paces["-".join(part.kinds)], seed) for part in parts]
                scores = self._scores([each["file"] for each in trainings])
                results.append({"arm": arm, "seed": seed, "trainings": trainings, "scores": scores})
                self.log(f"seed {seed}, {arm}: " + ", ".join(f"{name} {value:z.3f}" for name, value in scores.items()))
        about = {"base": self.base_digests, "budget": asdict(self.budget)}
        if (known := self.kept.find("environment", about)) is None:  # its date is that of the first document
            self.kept.keep("environment", about, known := environment())
        return {
            "environment": known,
            "budget": asdict(self.budget),
            "recipe": self._recipe(Part(KINDS), 1, 0).train.model_dump(exclude={"steps", "seed"}),
            "seconds_per_step": paces,
            "results": results,
        }

    def _recipe(self, part: Part, steps: int, seed: int) -> Recipe:
        return load_recipe(
            "canny",
            {
                "tuner.condition": None,
                "tuner.conditions": list(part.kinds),
                "data.hint_dropout": part.hint_dropout,
                "train.batch_size": self.budget.batch,
                "train.precision": "fp32",  # so that all processors train alike
                "train.seed": seed,
                "train.steps": steps,
            },
        )

    def _opened(self) -> Base:
        recipe = self._recipe(Part(KINDS), 1, 0)
        return builders.open_base(recipe.base, recipe.train, recipe.samples, "cpu")

    def _about(self, part: Part) -> dict[str, Any]:
        """Return the values that a training depends on, but for its steps and seed."""
        recipe = self._recipe(part, 1, 0).model_dump(include={"tuner", "train", "data"})
        return {"recipe": recipe, "scenes": self.budget.training_scenes, "base": self.base_digests}

    def _trainer(self, part: Part, steps: int, seed: int, own: bool = False) -> Trainer:
        """Return the trainer, with a base of its `own` where several are open at once."""
        recipe, base = self._recipe(part, steps, seed), self._opened() if own else self.base
        cache = cache_latents_and_text(self.dataset, base, part.kinds)
        return Trainer(base, builders.fresh_tuner(recipe.tuner, recipe.train, base), cache, recipe.train, recipe.data)

    def _paces(self, parts: Sequence[Part]) -> dict[str, float]:
        """Return the median processor seconds of a step of each part. Their steps are made in turns, since a step takes
        longer where other processes use the machine, and that changes."""
        about = {part.name: self._about(part) for part in parts}
        about |= {"processor": processor_name(), "threads": torch.get_num_threads(), "rounds": _TIMED}
        known = self.kept.find("seconds-per-step", about)
        if known is None:
            taken: dict[str, list[float]] = {part.name: [] for part in parts}
            with ExitStack() as stack:
                trainers = [stack.enter_context(self._trainer(part, _WARM_UP + _TIMED, 0, own=True)) for part in parts]
                for _ in range(_WARM_UP + _TIMED):
                    for part, trainer in zip(parts, trainers, strict=True):
                        taken[part.name].append(timed(trainer.advance, trainer.device))
            known = {name: statistics.median(seconds[_WARM_UP:]) for name, seconds in taken.items()}
            self.kept.keep("seconds-per-step", about, known)
            self.log("processor seconds of a step: " + ", ".join(f"{n} {value:.3f}" for n, value in known.items()))
        return known

    def _training(self, part: Part, pace: float, seed: int) -> dict[str, Any]:
        """Return the kinds, steps, seconds really taken and the name of the tuner's file in `work`."""
        steps = max(1, round(part.share * self.budget.seconds / pace))
        name = f"{part.name}-{steps}steps-seed{seed}"
        about = self._about(part) | {"steps": steps, "seed": seed}
        known = self.kept.find(name, about)
        if known is None or not (self.work / known["file"]).is_file():
            with self._trainer(part, steps, seed) as trainer:
                seconds = timed(lambda: [trainer.advance() for _ in range(steps)], self.base.device)
                if not trainer.is_finite:
                    raise WorkFailed(f"the weights of {name} are no longer finite")
                digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
                file = save_tuner(trainer.tuner, self.work / f"{name}-{digest}.safetensors")
            known = {"kinds": list(part.kinds), "steps": steps, "seconds": seconds, "file": file.name}
            self.kept.keep(name, about, known)
            self.log(f"{name}: {seconds:.0f} processor seconds")
        return known

    def _scores(self, files: Sequence[str]) -> dict[str, float]:
        """Return the control scores of the tuners, attached together and each alone, by the names of FIGURES."""
        about = {"files": files, "budget": asdict(self.budget), "base": self.base_digests}
        if (known := self.kept.find("scores", about)) is None:
            tuners = {tuner.condition: tuner for file in files for tuner in tuners_of(load_tuner(self.work / file))}
            found = self._evaluated([tuners[kind] for kind in KINDS])
            known = {"both": statistics.mean(found.values())} | found
            known |= {f"{kind}_alone": self._evaluated([tuners[kind]])[kind] for kind in KINDS}
            self.kept.keep("scores", about, known)
        return known

    def _evaluated(self, tuners: Sequence[CSCTuner]) -> dict[str, float]:
        specs = tuple(TunerSpec(tuner) for tuner in tuners)
        sampling = SamplingOptions(steps=self.budget.sampling_steps)
        request = EvaluationRequest(specs, base=self.base, images=self.budget.scenes, sampling=sampling)
        return {kind: figures["score"] for kind, figures in evaluate_tuners(request).quality.items()}


def table(document: dict[str, Any]) -> str:
    """Return the table in Markdown: steps, seconds and control scores of each arm, as mean and range over the seeds,
    and the differences of the bundles to the tuners apart, seed by seed."""
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for each in document["results"]:
        by_arm.setdefault(each["arm"], []).append(each)
    rows = []
    for arm, results in by_arm.items():
        steps = " + ".join(str(each["steps"]) for each in results[0]["trainings"])
        taken = statistics.mean(sum(each["seconds"] for each in result["trainings"]) for result in results)
        rows.append([arm, steps, f"{taken:.0f}", *(_spread([r["scores"][name] for r in results]) for name in FIGURES)])
    for arm, results in by_arm.items():
        if arm != APART:
            pairs = list(zip(results, by_arm[APART], strict=True))
            differences = [[one["scores"][name] - two["scores"][name] for one, two in pairs] for name in FIGURES]
            rows.append([f"{arm}: difference", "", "", *(_spread(each, "+.3f") for each in differences)])
    return as_markdown(["", "steps", "seconds", *FIGURES.values()], rows)


def _spread(values: Sequence[float], form: str = ".3f") -> str:
    mean = f"{statistics.mean(values):{form}}"
    return f"{mean} ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else mean


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, evaluate, write and print; return the exit code."""
    parser = argparse.ArgumentParser("python -m scedit_cli.benchmark.together", description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("together"), help="folder of finished trainings")
    parser.add_argument("--out", type=Path, help="JSON file; by default together.json in the folder of --work")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hint-dropout", type=float, nargs="+", default=[0.0], metavar="SHARE", help="a bundle each")
    for name, value in asdict(Budget()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args(arguments))
    for name in ("seeds", "training_scenes", "scenes", "sampling_steps"):
        if given[name] < 1:
            parser.error(f"--{name.replace('_', '-')} is {given[name]}: give 1 or more")
    work, out, seeds, dropouts = (given.pop(name) for name in ("work", "out", "seeds", "hint_dropout"))
    try:
        comparison = Comparison(Budget(**given), work, lambda text: sys.stderr.write(f"{text}\n"))
        document = comparison.document(dropouts, seeds)
        write_whole(out or work / "together.json", as_json(document))
    except SceditError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1 if isinstance(error, WorkFailed) else 2
    sys.stdout.write(table(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
