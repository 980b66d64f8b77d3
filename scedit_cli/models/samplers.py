"""The names of samplers, in diffusers and in other programs."""

from __future__ import annotations

import difflib
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING

from scedit_cli.utils.errors import SceditError, not_installed

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

# The kinds of noise that bases are trained on.
BETAS, EDM, CONTINUOUS, FLOW = (
    "a schedule of betas", "EDM's noise levels", "continuous noise levels", "flow matching"
)  # fmt: skip
# For each kind, diffusers' classes without their ending "Scheduler". A sampler for another kind of noise draws smears;
# this holds for EDMEuler too, which diffusers wrongly lists as exchangeable with all of the first kind.
SAMPLERS = {
    BETAS: (
        "DDIM", "DDPM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSDE", "DPMSolverSinglestep",
        "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM",
        "LMSDiscrete", "PNDM", "TCD", "UniPCMultistep",
    ),
    EDM: ("EDMDPMSolverMultistep", "EDMEuler"),
    CONTINUOUS: ("EulerDiscrete",),
    FLOW: ("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "FlowMatchLCM"),
}  # fmt: skip
# A base may have one of these as its own scheduler, but no base gets one in exchange.
NEVER_EXCHANGED = ("CosineDPMSolverMultistep", "DDIMParallel", "DDPMParallel", "IPNDM", "SASolver")
# Their names in A1111, ComfyUI and k-diffusion, as `plain` writes them.
CALLED = {
    BETAS: {
        "euler": "EulerDiscrete", "eulera": "EulerAncestralDiscrete", "eulerancestral": "EulerAncestralDiscrete",
        "dpmpp2m": "DPMSolverMultistep", "dpmpp2msde": "DPMSolverMultistep:algorithm_type=sde-dpmsolver++",
        "dpmppsde": "DPMSolverSDE", "dpm2": "KDPM2Discrete", "dpm2a": "KDPM2AncestralDiscrete",
        "dpm2ancestral": "KDPM2AncestralDiscrete", "heun": "HeunDiscrete", "lms": "LMSDiscrete",
        "plms": "PNDM:skip_prk_steps=true", "unipc": "UniPCMultistep", "deis": "DEISMultistep",
    },
    EDM: {
        "euler": "EDMEuler", "dpmpp2m": "EDMDPMSolverMultistep",
        "dpmpp2msde": "EDMDPMSolverMultistep:algorithm_type=sde-dpmsolver++",
    },
    CONTINUOUS: {"euler": "EulerDiscrete"},
    FLOW: {"euler": "FlowMatchEulerDiscrete", "heun": "FlowMatchHeunDiscrete"},
}  # fmt: skip
# The ends of those names say how the noise levels are spaced.
_SPACED = {
    "karras": "use_karras_sigmas=true", "exponential": "use_exponential_sigmas=true", "beta": "use_beta_sigmas=true",
    "sgmuniform": "timestep_spacing=trailing",
}  # fmt: skip
_SPACED_EDM = {"karras": "sigma_schedule=karras", "exponential": "sigma_schedule=exponential"}
_FOR_SDE = "DPMSolverSDE"


def check_name(text: str) -> None:
    """Raise SceditError for a `NAME[:KEY=VALUE,...]` that no base could be sampled with, importing no library."""
    name = text.partition(":")[0]
    if plain(name) not in map(plain, NEVER_EXCHANGED):
        found = [find(name, kind) for kind in SAMPLERS]
        if not any(found):
            raise not_known(name, BETAS)
        check_installed({each.partition(":")[0] for each in found if each})


def kind_of(scheduler: SchedulerMixin) -> str:
    """Return the kind of noise, a key of SAMPLERS, that a base with this scheduler was trained on. The class decides
    before the configuration, which may hold settings of the class that the scheduler was made from."""
    name, config = type(scheduler).__name__.removesuffix("Scheduler"), scheduler.config
    if hasattr(scheduler, "precondition_outputs"):
        return EDM
    if name in SAMPLERS[FLOW]:
        return FLOW
    is_told = config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction"
    if name in SAMPLERS[CONTINUOUS] and is_told:  # with another prediction type, diffusers' Euler takes timesteps
        return CONTINUOUS
    return BETAS if "beta_start" in config or "trained_betas" in config else FLOW


def plain(name: str) -> str:
    """Return a name in plain letters: "DPM++ 2M", "dpmpp_2m" -> "dpmpp2m"; "DDIMScheduler" -> "ddim"."""
    return re.sub("[^a-z0-9]", "", name.lower().replace("+", "p")).removesuffix("scheduler")


def find(name: str, kind: str) -> str | None:
    """Return the class for a name, with the settings that the name implies; None if this kind of base has none."""
    letters = plain(name)
    known = {plain(each): each for each in SAMPLERS[kind]} | CALLED[kind]
    if letters in known:
        return known[letters]
    for end, setting in (_SPACED_EDM if kind == EDM else _SPACED).items():
        if found := known.get(letters.removesuffix(end)):
            return f"{found}{',' if ':' in found else ':'}{setting}"
    return None


def not_known(name: str, kind: str) -> SceditError:
    """Return the error for a name that no sampler has, with a guess if a sampler for this `kind` of base is near."""
    names = {plain(each): each for each in SAMPLERS[kind]} | CALLED[kind]
    near = difflib.get_close_matches(plain(name), names, n=1, cutoff=0.7)
    guess = f"did you mean {names[near[0]].partition(':')[0]}? " if near else ""
    return SceditError(f"scheduler {name!r}: not known", f"{guess}choose one of {', '.join(SAMPLERS[kind])}")


def check_installed(names: set[str]) -> None:
    """Raise SceditError if one of these samplers needs a library that is not installed."""
    if _FOR_SDE in names and find_spec("torchsde") is None:
        raise not_installed(f"scheduler {_FOR_SDE}", "torchsde", "sde", "choose another")
