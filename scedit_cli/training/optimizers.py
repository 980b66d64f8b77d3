"""Optimizers by name, and their state as tensors and JSON."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from scedit_cli.recipe import TrainSection
from scedit_cli.utils.errors import SceditError, not_installed

# name -> (module, class, the extra that installs it)
_WHERE = {
    "adamw": ("torch.optim", "AdamW", None),
    "adamw-8bit": ("bitsandbytes.optim", "AdamW8bit", "8bit"),
    "prodigy": ("prodigyopt", "Prodigy", "prodigy"),
    "schedule-free": ("schedulefree", "AdamWScheduleFree", "schedule-free"),
    "adafactor": ("torch.optim", "Adafactor", None),
}
_FUSED_ON = ("cpu", "cuda")


def make_optimizer(parameters: Iterable[nn.Parameter], options: TrainSection, device: torch.device):
    """Return the optimizer that a recipe names, in training mode.

    Raises:
        SceditError: its library is not installed, or it has no such option.
    """
    module, name, extra = _WHERE[options.optimizer]
    try:
        kind = getattr(import_module(module), name)
    except ImportError as error:
        raise not_installed(f"train.optimizer {options.optimizer}", module.partition(".")[0], extra) from error
    given: dict[str, Any] = {"lr": options.learning_rate, "weight_decay": options.weight_decay}
    if options.optimizer == "adamw" and not {"foreach", "differentiable"} & options.optimizer_options.keys():
        given["fused"] = device.type in _FUSED_ON
    try:
        with redirect_stdout(None):  # Some print a greeting.
            optimizer = kind(parameters, **given | options.optimizer_options)
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
        raise SceditError(
            f"train.optimizer_options: {name} does not take {options.optimizer_options} ({error})",
            hint=f"its arguments are those of {module}.{name}",
        ) from error
    if has_two_modes(optimizer):
        optimizer.train()
    return optimizer


def has_two_modes(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the final weights differ from those being trained, as in schedule-free optimizers."""
    return hasattr(optimizer, "eval")


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the optimizer's state as tensors by name, and as JSON values that refer to those names."""
    tensors: dict[str, Tensor] = {}
    return tensors, _taken_apart(optimizer.state_dict(), "", tensors)


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: dict[str, Any], options: TrainSection
) -> None:
    """Restore the state from `optimizer_state`; learning rate and weight decay remain those of `options`."""
    whole = _put_together(plain, tensors)
    whole["state"] = {int(index): each for index, each in whole["state"].items()}
    for group in whole["param_groups"]:
        group |= {"lr": options.learning_rate, "weight_decay": options.weight_decay}
    optimizer.load_state_dict(whole)
    for parameter, state in optimizer.state.items():  # The fused step needs the parameter's memory layout.
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _taken_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {str(key): _taken_apart(each, f"{name}.{key}".lstrip("."), tensors) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_taken_apart(each, f"{name}.{place}", tensors) for place, each in enumerate(value)]
    return value


def _put_together(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"tensor"}:
            return tensors[value["tensor"]]
        return {key: _put_together(each, tensors) for key, each in value.items()}
    return [_put_together(each, tensors) for each in value] if isinstance(value, list) else value
