"""The first checks of `scedit bench`."""

from __future__ import annotations

from scedit_cli.benchmark.modes import BASE, METHODS, check_methods, check_rates, check_storage
from scedit_cli.benchmark.plot import check_plot
from scedit_cli.benchmark.reading import read_values
from scedit_cli.benchmark.requests import (
    CostRequest,
    EarlierResult,
    EvaluationRequest,
    LearningRequest,
    Output,
    Request,
    SkipsRequest,
)
from scedit_cli.jobs.checks import evaluate
from scedit_cli.models.names import check_model
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import check_writable, expanded
from scedit_cli.utils.names import PRECISIONS, PUBLIC

_OF_PIXELS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


def check(request: Request, output: Output) -> None:
    """Raise SceditError for every fault that shows without weights."""
    if isinstance(request, EvaluationRequest):
        evaluate.check(request)
    dtype = getattr(request, "dtype", None)
    if dtype is not None and dtype not in PRECISIONS:
        raise SceditError(f"`dtype` {dtype}: not known", f"choose one of {', '.join(PRECISIONS)}", "dtype")
    if output.plot:
        check_plot(output.plot)
        if isinstance(request, SkipsRequest) and output.plot.suffix.lower() not in _OF_PIXELS:
            raise SceditError(f"`plot` {output.plot}: the grid of `skips` is made of pixels", "end it in .png", "plot")
    if isinstance(request, CostRequest):
        check_methods(request.methods)
        check_storage(request.held.quantize, request.held.offload, request.held.beside)
    if isinstance(request, LearningRequest):
        check_methods(request.methods, (BASE, *METHODS))
        check_rates(request.learning_rates, request.methods)
    if isinstance(request, EarlierResult):
        read_values(request.path, "`show`")
    if output.baseline:
        read_values(output.baseline, "`baseline`")
    for name, place in {"plot": output.plot, "out": output.out, "keep": getattr(request, "keep", None)}.items():
        if place:
            check_writable(expanded(place), f"`{name}`")
    if not isinstance(request, EvaluationRequest):
        _check_base(getattr(request, "base", None), request)


def _check_base(base: str | None, request: Request) -> None:
    if base in PUBLIC and isinstance(request, SkipsRequest):
        raise SceditError(
            f"`base` {base} has random weights, whose skips say nothing",
            hint="name a diffusers folder, a single file or a hub id of such a model",
        )
    if base is not None and base not in PUBLIC:
        check_model(base)
