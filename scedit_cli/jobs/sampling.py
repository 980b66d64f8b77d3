"""`scedit bench --sampling`: what tuners add to a step of sampling."""

from __future__ import annotations

from scedit_cli.base import EMBEDDED
from scedit_cli.benchmark.measure import DTYPES
from scedit_cli.benchmark.sampling import SamplingTimes, step_times
from scedit_cli.errors import SceditError
from scedit_cli.jobs.progress import OnEvent, Progress

_RESOLUTION, _ROUNDS = 256, 9


def sampling(
    *,
    base: str | None = None,
    resolution: int | None = None,
    dtype: str | None = None,
    steps: int | None = None,
    on_event: OnEvent | None = None,
) -> SamplingTimes:
    """Time a step of sampling, bare, with tuners, and with a ControlNet.

    Args:
        base: as for `load_base`, the embedded one by default; or "sd15", "sd21" or "sdxl" for random weights of that
            shape.
        resolution: side of the picture in pixels, 256 by default.
        dtype: fp32 by default, bf16 or fp16.
        steps: rounds that are timed, 9 by default.

    Raises:
        SceditError: a base or a setting that cannot be.
    """
    dtype = dtype or "fp32"
    if dtype not in DTYPES:
        raise SceditError(f"--dtype {dtype}: not known", hint=f"choose one of {', '.join(DTYPES)}")
    tell = on_event or (lambda event: None)
    return step_times(
        base or EMBEDDED,
        resolution or _RESOLUTION,
        dtype,
        steps or _ROUNDS,
        lambda done, total: tell(Progress("timing", done, total)),
    )
