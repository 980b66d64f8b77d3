"""Every sampler that is accepted: its names, its settings, and the numbers of steps that it takes."""

from __future__ import annotations

import re
import sys

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import KarrasDiffusionSchedulers

from scedit_cli.inference.sampler import sample
from scedit_cli.models import samplers, schedulers
from scedit_cli.models.base import Base, load_base
from scedit_cli.models.samplers import BETAS, CONTINUOUS, EDM, FLOW, SAMPLERS, check_name
from scedit_cli.models.schedulers import check_steps, scheduler_like
from scedit_cli.utils.errors import SceditError
from tests import tiny

_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SDE = ("DPMSolverMultistep:algorithm_type=sde-dpmsolver++", "DPM++ SDE Karras")
# How many numbers of steps up to 1000 diffusers' trailing spacing makes a timestep too many for.
_ONE_TOO_MANY = [n for n in range(1, 1001) if len(np.arange(1000, 0, -1000 / n)) > n]


def euler(**options) -> diffusers.EulerDiscreteScheduler:
    return diffusers.EulerDiscreteScheduler(**_NOISE, **options)


ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
EDM_SCHEDULER = diffusers.EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
CONTINUOUS_SCHEDULER = euler(
    timestep_type="continuous", prediction_type="v_prediction", sigma_min=0.002, sigma_max=120.0, use_karras_sigmas=True
)


@pytest.fixture(scope="module")
def sd15() -> Base:
    return load_base(tiny.pipeline_folder("sd15"))


# Names


def test_every_sampler_of_diffusers_for_such_bases_is_known():
    theirs = {each.name.removesuffix("Scheduler") for each in KarrasDiffusionSchedulers}
    assert set(SAMPLERS[BETAS]) == (theirs | {"LCM", "TCD"}) - {"EDMEuler"}
    for names in (*SAMPLERS.values(), samplers.NEVER_EXCHANGED):
        assert all(hasattr(diffusers, f"{name}Scheduler") for name in names)
    for kind, called in samplers.CALLED.items():
        assert {each.partition(":")[0] for each in called.values()} <= set(SAMPLERS[kind])


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("Euler", "EulerDiscrete", {}),
        ("euler_ancestral", "EulerAncestralDiscrete", {}),
        ("Euler a", "EulerAncestralDiscrete", {}),
        ("DPM++ 2M", "DPMSolverMultistep", {"use_karras_sigmas": False, "algorithm_type": "dpmsolver++"}),
        ("DPM++ 2M Karras", "DPMSolverMultistep", {"use_karras_sigmas": True}),
        ("dpmpp_2m_sde", "DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}),
        ("DPM++ 2M SDE Karras:solver_order=1", "DPMSolverMultistep",
         {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True, "solver_order": 1}),
        ("DPM++ SDE", "DPMSolverSDE", {}),
        ("dpmpp_sde_karras", "DPMSolverSDE", {"use_karras_sigmas": True}),
        ("UniPC", "UniPCMultistep", {}),
        ("uni_pc", "UniPCMultistep", {}),
        ("DDIM", "DDIM", {}),
        ("ddim", "DDIM", {}),
        ("Heun", "HeunDiscrete", {}),
        ("LMS Karras", "LMSDiscrete", {"use_karras_sigmas": True}),
        ("DPM2 a", "KDPM2AncestralDiscrete", {}),
        ("PLMS", "PNDM", {"skip_prk_steps": True}),
        ("Euler SGM Uniform", "EulerDiscrete", {"timestep_spacing": "trailing"}),
        ("LCMScheduler", "LCM", {}),
    ],
)  # fmt: skip
def test_names_of_other_programs_mean_the_same_sampler(name, kind, settings):
    check_name(name)
    made = scheduler_like(tiny.scheduler("sd21"), name)
    assert type(made).__name__ == f"{kind}Scheduler"
    assert {key: made.config[key] for key in settings} == settings
    assert made.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("name", "guess"),
    [("nosuch", None), ("Scheduler", None), ("", None), ("EulerDiscreet", "EulerDiscrete"), ("dpm++2n", "DPMSolver")],
)
def test_only_near_names_are_guessed(name, guess):
    for refuse in (lambda: check_name(name), lambda: scheduler_like(euler(), name)):
        with pytest.raises(SceditError, match="not known") as error:
            refuse()
        assert error.value.hint.endswith("choose one of " + ", ".join(SAMPLERS[BETAS]))
        assert (f"did you mean {guess}" in error.value.hint) if guess else ("mean" not in error.value.hint)


@pytest.mark.parametrize(
    ("current", "names", "kind"),
    [
        (euler(), (*SAMPLERS[EDM], *SAMPLERS[FLOW]), BETAS),
        (EDM_SCHEDULER, ("DDIM", "EulerDiscrete", "DPM++ SDE", "FlowMatchEulerDiscrete"), EDM),
        (CONTINUOUS_SCHEDULER, ("DDIM", "Euler a", "EDMEuler"), CONTINUOUS),
        (diffusers.FlowMatchEulerDiscreteScheduler(), ("EulerDiscrete", "EDMEuler"), FLOW),
    ],
)
def test_a_sampler_for_bases_that_were_trained_otherwise_is_refused(current, names, kind):
    for name in names:
        told = f"scheduler {re.escape(name)} is for bases trained on .*; this one was trained on {kind}"
        with pytest.raises(SceditError, match=told):
            scheduler_like(current, name)


@pytest.mark.parametrize(
    ("current", "name", "steps"),
    [
        (diffusers.PNDMScheduler(**_NOISE, skip_prk_steps=False), "DDIM", 2),
        (diffusers.PNDMScheduler(**_NOISE, skip_prk_steps=False), "DPM++ 2M", 20),
        (diffusers.LCMScheduler(**_NOISE, original_inference_steps=40), "DDIM", 60),
        (euler(timestep_type="continuous"), "DDIM", 20),  # with epsilon, diffusers takes it for discrete
    ],
)
def test_settings_of_a_bases_own_sampler_do_not_bind_another(current, name, steps):
    """diffusers keeps them in the configuration of the one that is made from it."""
    check_steps(scheduler_like(current, name), steps)


def test_a_pipeline_takes_timesteps_of_its_callers(sd15):
    """As diffusers' own pipelines do."""
    pipeline = sd15.pipeline("EulerDiscrete")
    given = {"output_type": "latent", "height": 64, "width": 64, "guidance_scale": 1.0}
    seen = []
    pipeline("a cone", timesteps=[900, 500, 100], **given,
             callback_on_step_end=lambda _, step, time, tensors: seen.append(int(time)) or {})  # fmt: skip
    assert seen == [900, 500, 100]


@pytest.mark.parametrize(
    ("current", "name", "kind"),
    [
        (EDM_SCHEDULER, "Euler", "EDMEuler"),
        (EDM_SCHEDULER, "DPM++ 2M Karras", "EDMDPMSolverMultistep"),
        (CONTINUOUS_SCHEDULER, "euler", "EulerDiscrete"),
        (diffusers.IPNDMScheduler(), "IPNDMScheduler", "IPNDM"),  # as --from names a base's own
    ],
)
def test_a_base_has_the_samplers_of_its_kind(current, name, kind):
    check_name(name)
    assert type(scheduler_like(current, name)).__name__ == f"{kind}Scheduler"
    check_steps(scheduler_like(current, name), 20)


def test_a_base_that_starts_from_noise_alone_keeps_samplers_that_can():
    for name in SAMPLERS[BETAS]:
        kind = getattr(diffusers, f"{name}Scheduler")
        if "rescale_betas_zero_snr" in schedulers._parameters(kind):
            made = scheduler_like(euler(**ZERO_SNR), name)
            assert made.alphas_cumprod[-1] < 1e-6
            check_steps(made, 20)
        else:
            with pytest.raises(SceditError, match=f"scheduler {name} cannot start from noise alone"):
                scheduler_like(euler(**ZERO_SNR), name)


def test_karras_noise_levels_that_begin_alike_start_with_the_first():
    """On such a base several of the first round to timestep 999."""
    made = scheduler_like(euler(**ZERO_SNR), "DPM++ 2M Karras")
    check_steps(made, 50)
    theirs = diffusers.DPMSolverMultistepScheduler.from_config(made.config)
    theirs.set_timesteps(50)
    assert theirs.index_for_timestep(theirs.timesteps[0]) == 1


# Settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("DPMSolverMultistep:algorithm_type=best", "best"),
        ("DDIM:prediction_type=sample", "prediction_type is sample, and the base was trained with epsilon"),
        ("DDIM:num_train_timesteps=500", "num_train_timesteps is 500"),
        ("UniPCMultistep:use_flow_sigmas=true", "use_flow_sigmas is True"),
        ("DPMSolverSDE:noise_sampler_seed=3", "the noise of an image follows its `seed`"),
        ("DPMSolverSDE:beta_schedule=odd", "odd"),
        ("EulerDiscrete:use_karras_sigmas=yes", "use_karras_sigmas is 'yes'"),
        ("DPMSolverMultistep:solver_order=two", "solver_order is 'two'"),
        ("DPMSolverMultistep:solver_order=2.5", "solver_order is '2.5'"),
        ("DPMSolverMultistep:solver_order=9", "solver_order is '9'"),  # which diffusers takes for 3
        ("DEISMultistep:solver_order=9", "solver_order is '9'"),
        ("DDPM:variance_type=odd", "variance_type is 'odd'"),  # which diffusers takes for another
        ("DDIM:beta_end=small", "beta_end is 'small'"),
        ("DDIM:beta_end=true", "beta_end is 'true'"),
        ("DDIM Karras", "'use_karras_sigmas=true' is no setting of it"),
    ],
)
def test_settings_that_cannot_be(text, message):
    with pytest.raises(SceditError) as error:
        scheduler_like(euler(prediction_type="epsilon"), text)
    assert message in error.value.message and error.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "UniPCMultistep:solver_order=0", "DDPM:variance_type=learned", "DDIM:beta_end=2",
        "DPMSolverSDE:beta_start=0.9,beta_end=1.5",
    ],
)  # fmt: skip
def test_settings_that_fail_while_sampling_are_told_before(sd15, text):
    calls = []
    handle = sd15.unet.register_forward_pre_hook(lambda *call: calls.append(call))
    with pytest.raises(SceditError, match="it cannot be sampled with these settings: "):
        sample(sd15, ["a"], seeds=[1], steps=20, scheduler=text)
    handle.remove()
    assert not calls


def test_a_setting_that_is_pythons_is_read():
    assert scheduler_like(euler(), "EulerDiscrete:use_karras_sigmas=False").config.use_karras_sigmas is False


# Steps


@pytest.mark.parametrize(
    ("current", "name", "steps", "message"),
    [
        (tiny.scheduler("sd21"), "PNDM", 3, "PNDM cannot take 3 steps: it begins with 4 Runge-Kutta steps (give 4,"),
        (tiny.scheduler("sd15"), "LCM", 60, "LCM cannot take 60 steps: it takes them out of its original_inference_"),
        (tiny.scheduler("sd15"), "TCD", 51, "TCD cannot take 51 steps: it takes them out of its original_inference_"),
        (tiny.scheduler("sd15"), None, 1000, "PNDM cannot take 1000 steps: one of its timesteps is 1000"),
        (tiny.scheduler("sd15"), "DPM++ 2M", 1000, "1000 steps: its latents are no numbers (NaN or Inf) (give 999,"),
        *((tiny.scheduler("sd15"), name, 1001, "1001 steps: the base was trained on 1000") for name in SAMPLERS[BETAS]),
    ],
)
def test_steps_that_a_sampler_cannot_take_are_told(current, name, steps, message):
    with pytest.raises(SceditError) as error:
        check_steps(scheduler_like(current, name), steps, name)
    assert message in str(error.value)


def test_steps_are_told_before_the_unet_is_called(sd15):
    calls = []
    handle = sd15.unet.register_forward_pre_hook(lambda *call: calls.append(call))
    for name, steps in (("LCM", 60), ("DDIM", 1001)):
        with pytest.raises(SceditError, match=f"{name} cannot take {steps} steps"):
            sample(sd15, ["a"], seeds=[1], steps=steps, scheduler=name)
    handle.remove()
    assert not calls


def test_trailing_timesteps_are_too_many_for_these_numbers():
    assert len(_ONE_TOO_MANY) == 62 and _ONE_TOO_MANY[:4] == [61, 103, 121, 122]


@pytest.mark.parametrize("name", SAMPLERS[BETAS])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_each_number_of_steps_makes_as_many_valid_timesteps(name, spacing):
    """Where diffusers' are right, they are kept; where they are one too many, all but the last."""
    if name in ("LCM", "TCD"):
        numbers = range(1, 51)
    elif name in ("KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE"):  # they loop over their timesteps
        numbers = [1, 2, 3, 4, 5, 7, 10, 16, 20, 30, 50, *_ONE_TOO_MANY[:3]]
    elif name in ("DDIM", "EulerDiscrete") and spacing == "trailing":
        numbers = range(1, 999)
    else:
        numbers = sorted({*range(1, 60), *range(60, 999, 13), *_ONE_TOO_MANY})
    options = {"timestep_spacing": spacing, "steps_offset": 1 if spacing == "leading" else 0}
    made = scheduler_like(euler(**options), "PLMS" if name == "PNDM" else name)
    theirs = getattr(diffusers, f"{name}Scheduler").from_config(made.config)
    for steps in numbers:
        made.set_timesteps(steps)
        theirs.set_timesteps(steps)
        times = made.timesteps.tolist()
        whole = {"PNDM": steps + (steps > 1)}.get(name, made.order * steps - (made.order - 1))
        assert len(times) == whole, steps
        assert 0 <= min(times) and max(times) <= 999, steps
        assert (np.diff(times) <= 0).all() or made.order > 1, steps
        if spacing == "trailing" and steps in _ONE_TOO_MANY and len(theirs.timesteps) > whole:
            if made.order == 1 and name != "PNDM":
                assert times == theirs.timesteps.tolist()[:-1], steps
        else:
            assert torch.equal(made.timesteps, theirs.timesteps), steps
            if hasattr(made, "sigmas"):
                assert torch.equal(made.sigmas, theirs.sigmas), steps


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        {"timestep_spacing": "leading", "steps_offset": 1},
        ZERO_SNR,
        {**ZERO_SNR, "timestep_spacing": "leading", "steps_offset": 1},
    ],
)
def test_each_sampler_can_be_sampled(options):
    for name in SAMPLERS[BETAS]:
        zero = "rescale_betas_zero_snr"
        if zero in options and zero not in schedulers._parameters(getattr(diffusers, f"{name}Scheduler")):
            continue
        made = scheduler_like(euler(**options), name)  # takes long to make for some
        for steps in (1, 2, 4, 20, 61):
            if not (name in ("LCM", "TCD") and steps > 50 or name == "PNDM" and steps < 4):
                check_steps(made, steps, name)


def test_checking_steps_draws_from_nobody_elses_generator():
    before = torch.random.get_rng_state()
    made = scheduler_like(euler(), "DPM++ SDE")
    for name in (*SAMPLERS[BETAS], *SDE):
        check_steps(scheduler_like(euler(), name), 4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert made.noise_sampler_seed is None


def test_without_torchsde_its_sampler_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchsde", None)
    for refuse in (lambda: check_name("DPM++ SDE"), lambda: scheduler_like(euler(), "DPMSolverSDE")):
        with pytest.raises(SceditError, match="needs torchsde, which is not installed") as error:
            refuse()
        assert "scedit-cli[sde]" in error.value.hint
