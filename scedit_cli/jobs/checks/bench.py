"""The first checks of `scedit bench`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scedit_cli.benchmark.modes import check_rates, check_storage, check_use, known_methods, mode_of, read_size, read_tolerance
from scedit_cli.benchmark.plot import check_plot
from scedit_cli.benchmark.reading import read_values
from scedit_cli.jobs.checks.tuners import header_of
from scedit_cli.models.names import check_model
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import check_writable, expanded
from scedit_cli.utils.names import PRECISIONS, PUBLIC
from scedit_cli.utils.specs import parse_tuner

_OF_PIXELS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


def check(options: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Check the `options` of `jobs.bench`; return their mode (see `mode_of`) and methods (see `known_methods`).

    Raises:
        SceditError: a fault that shows without weights.
    """
    given = {name: value for name, value in options.items() if value or (value == 0 and value is not False)}
    mode = mode_of(given)
    read_tolerance(str(given.get("tolerance", 0.05)))
    if "dtype" in given and given["dtype"] not in PRECISIONS:
        raise SceditError(f"--dtype {given['dtype']}: not known", hint=f"choose one of {', '.join(PRECISIONS)}")
    if plot := given.get("plot"):
        check_plot(Path(plot))
        if mode == "--skips" and Path(plot).suffix.lower() not in _OF_PIXELS:
            raise SceditError(f"--plot {plot}: the grid of --skips is made of pixels", hint="end it in .png")
    chosen = known_methods(given.get("methods", ()), mode)
    check_use(given, chosen, mode)
    check_storage(given)
    check_rates(given.get("learning_rates", ()), chosen)
    if "fits" in given:
        read_size(given["fits"])
    for name in ("show", "baseline"):
        if name in given:
            read_values(Path(given[name]), f"--{name}")
    for name in ("plot", "out", "keep"):
        if name in given:
            check_writable(expanded(given[name]), f"--{name}")
    _check_base(given.get("base"), mode)
    for text in given.get("tuners", ()):
        header_of(parse_tuner(text).name)
    return mode, chosen


def _check_base(base: str | None, mode: str) -> None:
    if base in PUBLIC and mode == "--skips":
        raise SceditError(
            f"--base {base} has random weights, whose skips say nothing",
            hint="name a diffusers folder, a single file or a hub id of such a model",
        )
    if base is not None and base not in PUBLIC:
        check_model(base)
