"""What methods give for what they cost: each trained on the embedded world for the same steps and the same seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor

from scedit_cli import conditions
from scedit_cli.base import Base, load_base
from scedit_cli.benchmark.architecture import architecture
from scedit_cli.benchmark.estimate import peak
from scedit_cli.benchmark.frechet import frechet_distance
from scedit_cli.benchmark.measure import options_for
from scedit_cli.benchmark.methods import Inputs, Trainee, prepared
from scedit_cli.benchmark.setting import Setting
from scedit_cli.core.objective import add_noise, noise_prediction_loss
from scedit_cli.data.cache import Cache, cache_latents_and_text
from scedit_cli.data.loader import batches
from scedit_cli.data.rendered import Example
from scedit_cli.data.sampler import StatefulSampler
from scedit_cli.pipelines import EMBEDDED
from scedit_cli.sampling import sample, to_pictures, to_tensor
from scedit_cli.scenes.reader import load_reader
from scedit_cli.training.material import held_out_scenes, rendered_scenes
from scedit_cli.training.schedules import draw_timesteps
from scedit_cli.training.score import named_share

# Of AdamW, after a rise over _WARM_UP steps; the largest at which each method trains steadily on the embedded base.
RATES = {
    "sc": 3e-3,
    "csc": 3e-3,
    "lora": 1e-3,
    "full": 2e-4,
    "controlnet": 5e-4,
    "t2i-adapter": 5e-4,
    "controlnet-xs": 1e-3,
}
CONDITION, LOOK = "canny", "pastel"  # what is learned by methods that take a hint, and by those that take none
_WARM_UP = 50
_DROPPED = 0.1  # share of captions left empty
_LOSS_SCENES = 64

OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Budget:
    """Training that every method gets, twice over: a number of steps, and a time in seconds that counts the steps
    alone, at `batch` pictures of `scenes` rendered ones."""

    steps: int = 400
    seconds: float = 120.0
    batch: int = 16
    scenes: int = 1024


@dataclass(frozen=True)
class Outcome:
    """One training of a method, judged on held-out scenes.

    Attributes:
        budget: "steps" or "seconds", whichever is the same for all methods here.
        loss: denoising loss on held-out scenes, with the same noise for all.
        score: the control score; None for a method without a hint.
        objects: the share of the objects named by the captions that is there.
        frechet: distance of the pictures from renders of the same captions, in the reader's features.
    """

    budget: str
    steps: int
    seconds: float
    loss: float
    score: float | None
    objects: float
    frechet: float


def rate_of(method: str, rates: Mapping[str, float] | None = None) -> float:
    """The learning rate of a method: its own, else that of its kind ("sc-plain" is an "sc")."""
    known = {**RATES, **(rates or {})}
    return known[max((name for name in known if method == name or method.startswith(f"{name}-")), key=len)]


class Exam:
    """Held-out scenes that judge a method, and how far the base itself gets on them.

    Args:
        controlled: whether the method takes a hint: then it learns CONDITION, else LOOK.
        scenes: how many are drawn.
    """

    def __init__(self, base: Base, controlled: bool, scenes: int) -> None:
        self.controlled = controlled
        self._kinds = [CONDITION] if controlled else []
        self._look = "plain" if controlled else LOOK
        size = base.defaults.resolution
        self.shown: list[Example] = held_out_scenes(scenes, 0, self._kinds, size, self._look)
        self.texts = [each.text for each in self.shown]
        self.real = to_tensor([each.image for each in self.shown])
        self.hints = to_tensor([each.conditions[CONDITION] for each in self.shown]) if controlled else None
        self._base = base

    def data(self, base: Base, budget: Budget, on_step: Callable[[int, int], None] | None = None) -> Cache:
        """What the method learns from."""
        dataset = rendered_scenes(budget.scenes, 0, self._look, self._kinds, on_step)
        return cache_latents_and_text(dataset, base, self._kinds)

    @cached_property
    def _limits(self) -> tuple[list[float], list[float]]:
        """Consistencies without any method, and of the scenes through the autoencoder."""
        wanted = [each.conditions[CONDITION] for each in self.shown]
        drawn = sample(self._base, self.texts, seeds=range(len(self.texts)), batch_size=32)
        decoded = to_pictures(through_the_autoencoder(self._base, self.real))
        return tuple(conditions.consistencies(CONDITION, pictures, wanted) for pictures in (drawn, decoded))

    def judge(self, base: Base, trainee: Trainee) -> dict[str, float | None]:
        """The figures of an `Outcome`."""
        hinted = {"attachment": trainee.hinted, "hints": {"hint": self.hints}} if self.controlled else {}
        drawn = sample(base, self.texts, seeds=range(len(self.texts)), batch_size=32, **hinted)
        made = to_tensor(drawn)
        score = None
        if self.controlled:
            wanted = [each.conditions[CONDITION] for each in self.shown]
            score = conditions.control_score(conditions.consistencies(CONDITION, drawn, wanted), *self._limits)
        features = [load_reader().read(each).features for each in (made, self.real)]
        return {
            "loss": self._loss(base, trainee),
            "score": score,
            "objects": named_share(self.texts, made),
            "frechet": frechet_distance(*features),
        }

    @torch.no_grad()
    def _loss(self, base: Base, trainee: Trainee) -> float:
        """Over the same noise levels, one for each scene, and the same noise for every method."""
        count = min(len(self.shown), _LOSS_SCENES)
        latents = base.latents_from(base.encode_images(self.real[:count]))
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        alphas = base.scheduler.alphas_cumprod.to(base.device)
        times = ((torch.arange(count) + 0.5) / count * len(alphas)).long().to(base.device)
        size = base.defaults.resolution
        inputs = Inputs(
            add_noise(latents, noise, times, alphas).to(base.dtype),
            times,
            None if self.hints is None else self.hints[:count].to(base.device),
            base.unet_arguments(base.encode_prompts(self.texts[:count]), size, size),
        )
        answer = trainee.predict(inputs)
        return noise_prediction_loss(answer, noise, latents, times, alphas, base.prediction_type).mean().item()


def trained(
    method: str, exam: Exam, setting: Setting, budget: Budget, seed: int, rate: float, on_step: OnStep
) -> list[Outcome]:
    """One method on a fresh embedded base, judged after the budget's steps and after its seconds."""
    base = load_base(EMBEDDED)
    cache = exam.data(base, budget)
    torch.manual_seed(seed)
    outcomes: list[Outcome] = []
    sampler = StatefulSampler(len(cache), budget.batch, seed)
    with prepared(method, base.unet, options_for(setting, architecture(EMBEDDED))) as trainee:
        optimizer = torch.optim.AdamW(trainee.weights, lr=rate, fused=base.device.type in ("cpu", "cuda"))
        source, step, seconds = batches(cache, sampler), 0, 0.0
        wanted = {"steps", "seconds"}
        try:
            while wanted:
                batch = next(source)
                started = time.perf_counter()
                for group in optimizer.param_groups:
                    group["lr"] = rate * min(1.0, (step + 1) / _WARM_UP)
                _loss_of_batch(base, trainee, batch, cache.empty_text, seed, step).backward()
                torch.nn.utils.clip_grad_norm_(trainee.weights, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                seconds += time.perf_counter() - started
                reached = {"steps"} if step >= budget.steps else set()
                reached |= {"seconds"} if seconds >= budget.seconds else set()
                if due := reached & wanted:
                    found = exam.judge(base, trainee)
                    outcomes += [Outcome(name, step, seconds, **found) for name in sorted(due)]
                    wanted -= due
                share = min(step / budget.steps, seconds / budget.seconds)
                on_step(f"training {method}, seed {seed}", min(999, int(1000 * share)) if wanted else 1000, 1000)
        finally:
            source.close()
    return outcomes


def nature(method: str, setting: Setting) -> tuple[bool, int]:
    """Whether a method takes a hint on the embedded base, and how many parameters it trains.

    Raises:
        ValueError, RuntimeError: the embedded base cannot have it.
    """
    shape = architecture(EMBEDDED)
    with prepared(method, shape.on_meta(), options_for(setting, shape)) as trainee:
        return trainee.takes_hint, trainee.count


def compared(
    method: str,
    exam: Exam,
    setting: Setting,
    budget: Budget,
    seeds: int,
    rate: float,
    on_step: OnStep,
) -> dict[str, dict[str, float | int | None]]:
    """A method trained from the seeds 0, 1, …: "METHOD, same steps" and "METHOD, same seconds" -> what `summed_up`
    gives, with its learning rate, parameters, and the estimated peak of a step's memory without libraries.
    """
    outcomes = [
        outcome for seed in range(seeds) for outcome in trained(method, exam, setting, budget, seed, rate, on_step)
    ]
    facts = {
        "trainable_parameters": nature(method, setting)[1],
        "estimated_peak_memory": peak_of(method, setting, budget),
        "learning_rate": rate,
        "seeds": seeds,
        "scenes": len(exam.shown),
    }
    return {
        f"{method}, same {name}": summed_up([each for each in outcomes if each.budget == name]) | facts
        for name in ("steps", "seconds")
    }


def base_figures(base: Base, scenes: int) -> dict[str, float | int]:
    """The embedded base's own: the autoencoder's mean PSNR in dB over held-out scenes (`psnr`), and the share of the
    objects named by their captions that it draws (`objects`)."""
    shown = held_out_scenes(scenes, 0, (), base.defaults.resolution)
    real, texts = to_tensor([each.image for each in shown]), [each.text for each in shown]
    error = (through_the_autoencoder(base, real).cpu() - real).square().mean((1, 2, 3))
    drawn = to_tensor(sample(base, texts, seeds=range(scenes), batch_size=32))
    return {"psnr": (-10 * error.log10()).mean().item(), "objects": named_share(texts, drawn), "scenes": scenes}


def through_the_autoencoder(base: Base, pictures: Tensor, batch_size: int = 32) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1], encoded and decoded again."""
    return torch.cat(
        [base.decode(base.latents_from(base.encode_images(batch))) for batch in pictures.split(batch_size)]
    )


def peak_of(method: str, setting: Setting, budget: Budget) -> int:
    """Estimated bytes of a training step of the method on the embedded base, libraries apart."""
    base = architecture(EMBEDDED)
    options = options_for(setting, base)
    parts = peak(method, base, budget.batch, base.resolution, "fp32", device="cpu", options=options)
    return sum(parts.values())


def summed_up(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """Means over seeds, and with three or more `NAME_deviation`, their standard deviation."""
    summary: dict[str, float | None] = {}
    for name in ("steps", "seconds", "loss", "score", "objects", "frechet"):
        values = [asdict(each)[name] for each in outcomes]
        if None in values:
            summary[name] = None
            continue
        summary[name] = statistics.mean(values)
        if len(values) > 1 and name not in ("steps", "seconds"):
            summary[f"{name}_deviation"] = statistics.stdev(values)
    return summary


def _loss_of_batch(
    base: Base, trainee: Trainee, batch, empty: dict[str, Tensor], seed: int, step: int
) -> Tensor:
    """The loss of a batch, whose noise is that of step `step` for every method."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + step)
    latents = base.latents_from(batch.moments, generator)
    noise = torch.randn(latents.shape, generator=generator)
    alphas = base.scheduler.alphas_cumprod
    kind = "shifted" if trainee.takes_hint else "uniform"
    times = draw_timesteps(kind, len(latents), len(alphas), generator)
    dropped = torch.rand(len(latents), generator=generator) < _DROPPED
    text = {
        name: torch.where(dropped.view(-1, *[1] * (values.dim() - 1)), empty[name], values).to(base.device)
        for name, values in batch.text.items()
    }
    latents, noise, times, alphas = (each.to(base.device) for each in (latents, noise, times, alphas))
    size = base.defaults.resolution
    hint = batch.hints[CONDITION].to(base.device) if trainee.takes_hint else None
    inputs = Inputs(add_noise(latents, noise, times, alphas), times, hint, base.unet_arguments(text, size, size))
    return noise_prediction_loss(
        trainee.predict(inputs), noise, latents, times, alphas, base.prediction_type
    ).mean()
