"""The share of the processors that other processes take while something is measured."""

from __future__ import annotations

import os

import psutil

MOST = 0.1  # above this share, times by the clock say little


class MachineLoad:
    """The load of the machine by others, from the making of this object on."""

    def __init__(self) -> None:
        self._before = _spent()

    def of_others(self) -> float:
        """Return the share of all processors' time that other processes took, in [0, 1]."""
        busy, own, everything = (now - before for now, before in zip(_spent(), self._before, strict=True))
        return min(1.0, max(0.0, busy - own) / everything) if everything > 0 else 0.0


def warning(share: float) -> str | None:
    """Return the sentence about a machine on which others took this `share` of the processors; None for a quiet one."""
    if share <= MOST:
        return None
    return (
        f"other processes took {share:.0%} of the processors meanwhile: seconds by the clock and images/s mean little, "
        "CPU seconds a little more"
    )


def _spent() -> tuple[float, float, float]:
    """Return the processor seconds so far: all busy ones, those of this process and its ended children, and all."""
    times = psutil.cpu_times()._asdict()
    for part, of in {"guest": "user", "guest_nice": "nice"}.items():  # which are counted twice
        times[of] = times.get(of, 0.0) - times.pop(part, 0.0)
    everything = sum(times.values())
    own = os.times()
    idle = times["idle"] + times.get("iowait", 0.0)
    return everything - idle, own.user + own.system + own.children_user + own.children_system, everything
