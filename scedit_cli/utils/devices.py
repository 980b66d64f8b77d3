"""The devices that compute: which is taken where none is named, and whether a named one is there."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from scedit_cli.utils.errors import SceditError

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"cpu|mps|(?:cuda|xpu)(?::\d{1,4})?")


def check_name(name: str | None) -> str | None:
    """`name`, which is one that a device may have; PyTorch is not imported.

    Raises:
        SceditError: no device has such a name.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise SceditError(f"--device {name}: no device is called that", hint="choose cpu, cuda, cuda:1, mps or xpu")
    return name


def device_here(name: str | None) -> str | None:
    """The device called `name`, made PyTorch's current one; None where none is named. Of the processes that a launcher
    has started, each gets the device of its own number on the machine.

    Raises:
        SceditError: no device is called that, this machine has none such, or several processes were to share it.
    """
    kind, _, number = (check_name(name) or "cpu").partition(":")
    if kind == "cpu":
        return name
    import torch

    best = best_device().type
    if kind != best:
        others = f"choose {best} or cpu" if best != "cpu" else "choose cpu, or leave --device out"
        raise SceditError(f"--device {name}: PyTorch {torch.__version__} finds no {kind} device here", hint=others)
    if kind == "mps":
        return name
    count = torch.accelerator.device_count()
    if (launched := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        if number:
            raise SceditError(
                f"--device {name}: {launched} processes cannot share it", hint=f"{kind} gives each a device of its own"
            )
        number = os.environ.get("LOCAL_RANK", "0")
    if number and int(number) >= count:
        found = f"{count} device{'s' if count > 1 else ''}"
        hint = "start fewer processes" if launched > 1 else f"choose {kind}:0" + f" to {kind}:{count - 1}" * (count > 1)
        raise SceditError(f"--device {kind}:{number}: this machine has {found}, counted from 0", hint=hint)
    if number:
        torch.accelerator.set_device_index(int(number))
    return f"{kind}:{number}" if number else name


def best_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    import torch

    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
