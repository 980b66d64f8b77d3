"""How PyTorch's threads wait for each other on the CPU, chosen before PyTorch is imported.

OpenMP's threads spin while they wait. Where other programs hold the processors, a thread spins for as long as its
preempted neighbour does not run, which multiplies the processor time of every operation.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

from scedit_cli.utils.distributed import launched

_SET_BY_USERS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_SPINS = "10000"  # turns of GNU's loop: as fast as its default of 300,000 on a quiet machine, less wasteful on others
_PRESSURE = 25.0  # per cent of the last ten seconds in which some process waited for a processor
_LOOKS, _BETWEEN = 5, 0.003  # at the number of running processes, and seconds between two looks

_chosen = "PyTorch's own: nothing was chosen"


def choose_waiting() -> None:
    """Choose by environment variables how OpenMP's threads wait: asleep on a machine that others use too, else with a
    short spin; and no more threads than a container's share of processors. What the user has set stays, and nothing is
    changed once PyTorch is imported, since its threads have read the variables by then."""
    global _chosen
    if "torch" in sys.modules:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = _quota()
    if share is not None and share < cores and "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(share)))
    if given := [name for name in _SET_BY_USERS if name in os.environ]:
        _chosen = f"{given[0]}={os.environ[given[0]]}, set in the environment"
        return
    if why := _shared(cores, share):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        _chosen = f"asleep ({why})"
    else:
        os.environ["GOMP_SPINCOUNT"] = _SPINS
        _chosen = "a short spin, then asleep"


def waiting() -> str:
    """Return how PyTorch's threads wait in this process, and why."""
    return _chosen


def others_running() -> int | None:
    """Return the number of other processes and threads that run or wait for a processor, the median of a few looks;
    None where the system does not tell."""
    counts = []
    for look in range(_LOOKS):
        if look:
            time.sleep(_BETWEEN)
        try:
            running = Path("/proc/loadavg").read_text().split()[3].partition("/")[0]
        except (OSError, IndexError):
            return None
        counts.append(max(0, int(running) - 1))  # without the thread that looks
    return sorted(counts)[_LOOKS // 2]


def pressure() -> float | None:
    """Return the percentage of the last ten seconds in which some process waited for a processor; None where the system
    does not tell."""
    try:
        found = re.search(r"^some avg10=([\d.]+)", Path("/proc/pressure/cpu").read_text())
    except OSError:
        return None
    return float(found[1]) if found else None


def _shared(cores: int, share: float | None) -> str | None:
    """Return why the processors are not this process's alone, or None where they seem to be."""
    ranks = launched(local=True)
    if ranks > 1:
        return f"{ranks} ranks on this machine"
    if share is not None and share < cores:
        return f"a share of {share:g} of {cores} processors"
    if (waited := pressure() or 0.0) > _PRESSURE:
        return f"processes waited for a processor in {waited:.0f} % of the last seconds"
    if others := others_running():
        return f"{others} others run on {cores} processors"
    if others is None and hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 0.5 * cores:
        return f"a load of {load:.1f} on {cores} processors"
    return None


def _quota() -> float | None:
    """Return the number of processors that the control group may use at once; None without a limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            folder = Path("/sys/fs/cgroup/cpu")
            limit, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        except OSError:
            return None
    return int(limit) / int(period) if limit.lstrip("-").isdecimal() and int(limit) > 0 else None
