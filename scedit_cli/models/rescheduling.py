"""The scheduler of a base for another prediction type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scedit_cli.core.objective import FLOW
from scedit_cli.models.noise_levels import prediction_of
from scedit_cli.models.samplers import CONTINUOUS, EDM, kind_of
from scedit_cli.utils.errors import SceditError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


def rescheduled(
    scheduler: SchedulerMixin, name: str, prediction_type: str, zero_terminal_snr: bool
) -> SchedulerMixin:
    """Return the scheduler of base `name` for another prediction type, as `Base.rescheduled` describes it; the same
    object where nothing changes.

    Raises:
        SceditError: the base's noise levels do not allow the change.
    """
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    own = prediction_of(scheduler)
    if FLOW == prediction_type == own:
        return scheduler
    if prediction_type == FLOW:
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=scheduler.config.num_train_timesteps)
    if own == FLOW:
        raise SceditError(
            f"base {name} was trained by flow matching, and a prediction of {prediction_type} is not for it",
            hint='leave prediction out, or take "flow"',
        )
    kind, changes = type(scheduler), {"prediction_type": prediction_type}
    if zero_terminal_snr:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        kind = kind if "rescale_betas_zero_snr" in scheduler.config else DDIMScheduler
    if all(scheduler.config.get(key) == value for key, value in changes.items()):
        return scheduler
    possible = {EDM: ("epsilon", "v_prediction"), CONTINUOUS: ("v_prediction",)}.get(kind_of(scheduler))
    if possible and (zero_terminal_snr or prediction_type not in possible):
        wanted = "zero-terminal-SNR noise" if zero_terminal_snr else f"a prediction of {prediction_type}"
        raise SceditError(
            f"base {name}: its noise levels are continuous, as EDM's, and {wanted} is not for those",
            hint="leave zero_terminal_snr and prediction out, or name another base",
        )
    return kind.from_config(scheduler.config, **changes)
