"""Schedulers that replace a base's own, and trials of them before they are used."""

from __future__ import annotations

import copy
import difflib
import functools
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from scedit_cli.models.samplers import BETAS, SAMPLERS, check_installed, find, kind_of, not_known, plain
from scedit_cli.utils.errors import SceditError, reason
from scedit_cli.utils.io import read_json

if TYPE_CHECKING:
    from diffusers import SchedulerMixin
    from torch import Tensor

_USUAL = (4, 20, 50)  # steps; every sampler can take one of these numbers unless its settings are impossible


class _Steps(int):
    """A number of steps for which diffusers' "trailing" spacing makes exactly that many timesteps.

    diffusers divides the trained timesteps by the number and counts down with `numpy.arange`. For 62 of the numbers up
    to 1000 (the least is 61) the quotient is rounded down, so that one more timestep fits. It becomes −1, and its step
    turns finished latents into noise. With the quotient rounded up, it does not fit.
    """

    def __rtruediv__(self, whole: float) -> float:
        quotient = whole / int(self)
        return math.nextafter(quotient, math.inf) if whole / quotient > self else quotient


@functools.cache
def _mended(kind: type[SchedulerMixin]) -> type[SchedulerMixin]:
    """Return a class like `kind` that makes exactly the given number of timesteps and starts with the first of them.
    diffusers looks up the first timestep by its value and takes the second of two equal ones: with Karras' noise
    levels, rounded to whole timesteps, sampling then ends at an index beyond the last."""

    @functools.wraps(kind.set_timesteps)
    def set_timesteps(
        self: SchedulerMixin, num_inference_steps: int | None = None, *args: Any, **more: Any
    ) -> None:
        steps = None if num_inference_steps is None else _Steps(num_inference_steps)  # None: `more` has timesteps
        kind.set_timesteps(self, steps, *args, **more)
        if hasattr(self, "set_begin_index"):
            self.set_begin_index(0)

    mends = {"set_timesteps": set_timesteps, "__module__": kind.__module__}
    if not hasattr(kind, "scale_model_input"):  # flow matching's, which U-Nets' pipelines do not expect
        mends |= {"init_noise_sigma": 1.0, "scale_model_input": _unscaled, "add_noise": _noised}
    if "noise_sampler_seed" in _parameters(kind):
        mends["step"] = _with_noise_of_the_cpu(kind.step)
    return type(kind.__name__, (kind,), mends)


def _unscaled(self: SchedulerMixin, sample: Tensor, timestep: Any = None) -> Tensor:
    return sample


def _noised(self: SchedulerMixin, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    return self.scale_noise(original_samples, timesteps, noise)


def _with_noise_of_the_cpu(step: Callable) -> Callable:
    """Wrap the `step` of DPMSolverSDE so that it draws its noise on the CPU in float32: drawn on the latents' device
    and in their precision, the noise of a seed would not be the same everywhere."""

    @functools.wraps(step)
    def stepped(self: SchedulerMixin, model_output: Tensor, timestep: Any, sample: Tensor, **more: Any) -> Any:
        if self.noise_sampler is None:
            from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler

            ends = self.sigmas[self.sigmas > 0].min().item(), self.sigmas.max().item()
            tree = BrownianTreeNoiseSampler(sample.float().cpu(), *ends, self.noise_sampler_seed)
            self.noise_sampler = lambda *between: tree(*between).to(sample)
        return step(self, model_output, timestep, sample, **more)

    return stepped


def scheduler_like(current: SchedulerMixin, text: str | None = None) -> SchedulerMixin:
    """Return a new scheduler with the noise schedule of `current`.

    Args:
        text: `NAME[:KEY=VALUE,...]`, such as "DPMSolverMultistep:use_karras_sigmas=true". NAME is a class of diffusers,
            with or without its ending "Scheduler", or its name in other programs ("DPM++ 2M Karras"); the rest are
            the class's own settings. By default the class of `current`.

    Raises:
        SceditError: no such scheduler fits, it has no such setting or takes no such value, or it needs a library that
            is not installed.
    """
    if text is None:
        return _mended(type(current)).from_config(current.config, **_unclipped(type(current), current.config))
    name, _, settings = text.partition(":")
    kind, implied = _kind(current, name)
    given = _settings(kind, implied) | _settings(kind, settings)
    _check_fixed(current.config, kind, given)
    try:
        return _mended(kind).from_config(current.config, **_unclipped(kind, current.config) | given)
    except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
        raise SceditError(f"scheduler {text}: {error}", hint="diffusers' documentation says what it takes") from error


def check_steps(scheduler: SchedulerMixin, steps: int, text: str | None = None) -> None:
    """Check that a scheduler works with its settings and this number of steps, by sampling one latent pixel: diffusers
    itself reports such errors late and in many ways, or not at all.

    Args:
        text: the scheduler as given to `scheduler_like`, for the error.

    Raises:
        SceditError: the scheduler cannot take so many steps, or does not work with its settings.
    """
    name = text or type(scheduler).__name__.removesuffix("Scheduler")
    if (problem := _problem(scheduler, steps)) is None:
        return
    if all(_problem(scheduler, other) for other in _USUAL if other != steps):
        raise SceditError(
            f"scheduler {name}: it cannot be sampled with these settings: {problem}",
            hint="leave its settings out; diffusers' documentation says what they may be",
        )
    config = _own_settings(scheduler)
    most = config.get("original_inference_steps") or config.get("num_train_timesteps") or steps
    near = sorted({most, most - 1, most - 2, *_USUAL} - {steps}, key=lambda other: abs(other - steps))
    works = next(other for other in near if _problem(scheduler, other, with_steps=other in _USUAL) is None)
    raise SceditError(f"scheduler {name} cannot take {steps} steps: {problem}", hint=f"give {works}, for example")


def _problem(scheduler: SchedulerMixin, steps: int, with_steps: bool = True) -> str | None:
    """Return why this number of steps cannot be sampled, or None. Without `with_steps` only the timesteps are tried."""
    import torch

    trial = copy.deepcopy(scheduler)
    draw = torch.Generator().manual_seed(0)
    seed_noise(trial, [draw])
    more = {"generator": draw} if "generator" in inspect.signature(trial.step).parameters else {}
    shift = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}  # any size of the image
    try:
        if problem := _too_many(trial, steps):
            return problem
        trial.set_timesteps(steps, **shift)
        if problem := _bad_timesteps(trial, steps):
            return problem
        latents = torch.randn(1, 4, 1, 1, generator=draw) * trial.init_noise_sigma
        for timestep in trial.timesteps if with_steps else ():
            _ = trial.scale_model_input(latents, timestep)
            answer = torch.randn(latents.shape, generator=draw)
            latents = trial.step(answer, timestep, latents, **more, return_dict=False)[0]
    except Exception as error:  # each scheduler fails in ways of its own
        return reason(error)
    return None if torch.isfinite(latents).all() else "its latents are no numbers (NaN or Inf)"


def _too_many(scheduler: SchedulerMixin, steps: int) -> str | None:
    config = _own_settings(scheduler)
    if kind_of(scheduler) == BETAS and steps > config["num_train_timesteps"]:
        return f"the base was trained on {config['num_train_timesteps']} timesteps"
    if steps > config.get("original_inference_steps", steps):
        return f"it takes them out of its original_inference_steps, {config['original_inference_steps']}"
    if not config.get("skip_prk_steps", True) and steps < scheduler.pndm_order:
        return f"it begins with {scheduler.pndm_order} Runge-Kutta steps"
    return None


def _bad_timesteps(scheduler: SchedulerMixin, steps: int) -> str | None:
    count = math.ceil(len(scheduler.timesteps) / scheduler.order)
    if count != steps and not hasattr(scheduler, "prk_timesteps"):  # PNDM calls the U-Net more often at first
        return f"it makes {count} of them"
    most = scheduler.config.get("num_train_timesteps", 0) - 1
    outside = [each for each in scheduler.timesteps.tolist() if not 0 <= each <= most]
    if kind_of(scheduler) == BETAS and outside:
        return f"one of its timesteps is {outside[0]:g}, and the base was trained on 0 to {most}"
    return None


def seed_noise(scheduler: SchedulerMixin, generators: list[Any]) -> None:
    """Give each image's seed to the one scheduler that draws noise without being given generators (DPMSolverSDE), so
    that an image is the same alone and in a batch."""
    if hasattr(scheduler, "noise_sampler_seed"):
        scheduler.noise_sampler_seed = [generator.initial_seed() for generator in generators]


def _kind(current: SchedulerMixin, name: str) -> tuple[type[SchedulerMixin], str]:
    """Return the class of that name which fits `current`, and the settings that the name implies."""
    import diffusers

    kind = kind_of(current)
    if plain(name) == plain(type(current).__name__):
        return type(current), ""
    found = find(name, kind)
    if not found:
        others = [other for other in SAMPLERS if find(name, other)]
        if not others:
            raise not_known(name, kind)
        raise SceditError(
            f"scheduler {name} is for bases trained on {others[0]}; this one was trained on {kind}",
            f"choose one of {', '.join(SAMPLERS[kind])}",
        )
    found, _, implied = found.partition(":")
    check_installed({found})
    return getattr(diffusers, f"{found}Scheduler"), implied


def _unclipped(kind: type[SchedulerMixin], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the setting that stops DDIM and its kin from clipping latents, which exceed [-1, 1]."""
    return {"clip_sample": False} if "clip_sample" in _parameters(kind) and "clip_sample" not in config else {}


def _check_fixed(config: Mapping[str, Any], kind: type[SchedulerMixin], given: Mapping[str, Any]) -> None:
    """Raise SceditError for settings that a base's training, or an image's seed, decides."""
    name = kind.__name__.removesuffix("Scheduler")
    if "noise_sampler_seed" in given:
        raise SceditError(f"scheduler {name}: the noise of an image follows its `seed`", "leave noise_sampler_seed out")
    for key in ("prediction_type", "num_train_timesteps", "trained_betas", "use_flow_sigmas", "sigma_data"):
        if key in given and given[key] != (known := config.get(key, False)):
            hint = "`prediction` says it where the base is wrong" if key == "prediction_type" else "leave it out"
            raise SceditError(f"scheduler {name}: {key} is {given[key]}, and the base was trained with {known}", hint)
    if config.get("use_dynamic_shifting") and "use_dynamic_shifting" not in _parameters(kind):
        raise SceditError(
            f"scheduler {name} cannot shift its noise levels by the image's size, as this base's does",
            "choose FlowMatchEulerDiscrete or FlowMatchLCM",
        )
    if config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in _parameters(kind):
        raise SceditError(
            f"scheduler {name} cannot start from noise alone (zero terminal SNR), as this base was trained to",
            "choose DDIM, DDPM, DPMSolverMultistep, EulerDiscrete, EulerAncestralDiscrete or UniPCMultistep",
        )


def _settings(kind: type[SchedulerMixin], text: str) -> dict[str, Any]:
    """Parse settings: "use_karras_sigmas=true,solver_order=3" -> {"use_karras_sigmas": True, "solver_order": 3}."""
    given = {}
    known = _parameters(kind)
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if key not in known or not equals:
            guess = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {guess[0]}?" if guess else f"it has {', '.join(known)}"
            raise SceditError(f"scheduler {kind.__name__}: {part!r} is no setting of it", hint)
        try:
            given[key] = read_json(value.lower() if value in ("True", "False") else value)
        except ValueError:
            given[key] = value
        if wanted := _wanted(kind, key, given[key]):
            raise SceditError(f"scheduler {kind.__name__}: {key} is {value!r}", f"give {wanted}")
    return given


def _wanted(kind: type[SchedulerMixin], key: str, value: Any) -> str | None:
    """Return what a setting's value may be if `value` is wrong, else None. diffusers accepts wrong values silently: it
    takes "false" for true, and order 9 for 3."""
    parameter = _parameters(kind)[key]
    choices = _choices(parameter.annotation)
    if choices and value is not None and value not in choices:
        return " or ".join(choices)
    if isinstance(parameter.default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(parameter.default, int | float):
        is_number = isinstance(value, type(parameter.default) | int) and not isinstance(value, bool)
        if key == "solver_order" and is_number and not 1 <= value <= 3 and "UniPC" not in kind.__name__:
            return "1, 2 or 3"
        return None if is_number else f"a number such as {parameter.default:g}"
    return None


def _choices(annotation: Any) -> list[str]:
    """Return the choices of an annotation: `Literal["a", "b"] | None` -> ["a", "b"]."""
    parts = typing.get_args(annotation)
    return [each for part in parts for each in ([part] if isinstance(part, str) else _choices(part))]


def _own_settings(scheduler: SchedulerMixin) -> dict[str, Any]:
    """Return its configuration without entries of the other class that it may have been made from."""
    known = _parameters(type(scheduler))
    return {name: value for name, value in scheduler.config.items() if name in known}


def _parameters(kind: type[SchedulerMixin]) -> dict[str, inspect.Parameter]:
    return {
        name: parameter
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if name not in ("self", "kwargs")
    }
