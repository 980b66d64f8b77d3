"""The device to compute on: the default one, and checks of a named one."""

from __future__ import annotations

import platform
import re
from typing import TYPE_CHECKING

from scedit_cli.utils.distributed import launched, launched_rank
from scedit_cli.utils.errors import SceditError

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"cpu|mps|(?:cuda|xpu)(?::\d{1,4})?")


def check_name(name: str | None) -> str | None:
    """Return `name` after checking, without PyTorch, that it has the form of a device's name.

    Raises:
        SceditError: it does not have that form.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise SceditError(f"`device` {name}: no device is called that", hint="choose cpu, cuda, cuda:1, mps or xpu")
    return name


def device_here(name: str | None) -> str | None:
    """Make the device `name` PyTorch's current one and return its name; None for None. Every process of a launcher gets
    the device with its own number on the machine.

    Raises:
        SceditError: `name` is no device's name, this machine has no such device, or several processes would share it.
    """
    kind, _, number = (check_name(name) or "cpu").partition(":")
    if kind == "cpu":
        return name
    import torch

    best = best_device().type
    if kind != best:
        others = f"choose {best} or cpu" if best != "cpu" else "choose cpu, or leave `device` out"
        raise SceditError(f"`device` {name}: PyTorch {torch.__version__} finds no {kind} device here", hint=others)
    if kind == "mps":
        return name
    count = torch.accelerator.device_count()
    if (processes := launched()) > 1:
        if number:
            raise SceditError(
                f"`device` {name}: {processes} processes cannot share it", hint=f"{kind} gives each a device of its own"
            )
        number = str(launched_rank(local=True))
    if number and int(number) >= count:
        found = f"{count} device{'s' if count > 1 else ''}"
        others = f"choose {kind}:0" + f" to {kind}:{count - 1}" * (count > 1)
        hint = "start fewer processes" if processes > 1 else others
        raise SceditError(f"`device` {kind}:{number}: this machine has {found}, counted from 0", hint=hint)
    if number:
        torch.accelerator.set_device_index(int(number))
    return f"{kind}:{number}" if number else name


def training_precision(device: str | None = None) -> str:
    """Return the precision of a frozen base for training on the device of this name, or on the best one: "bf16", or
    "fp32" on a CPU without instructions that multiply it, where PyTorch takes ten times as long."""
    import torch

    if (device or best_device().type) != "cpu":
        return "bf16"
    if platform.machine().lower() in ("x86_64", "amd64"):
        native = torch.cpu._is_avx512_bf16_supported()
    else:
        native = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16" if native else "fp32"


def best_device() -> torch.device:
    """Return the accelerator where there is one, else the CPU."""
    import torch

    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
