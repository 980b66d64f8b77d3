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
    Sizes,
    SkipsRequest,
)
from scedit_cli.jobs.checks import evaluate
from scedit_cli.models.names import check_model
from scedit_cli.utils.distributed import launched
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.fields import check_number
from scedit_cli.utils.io import check_writable, expanded
from scedit_cli.utils.names import PRECISIONS, PUBLIC

_OF_PIXELS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
_WIDEST = 8  # hidden width of tuners in shares of the channels, as in recipes


def check(request: Request, output: Output) -> None:
    """Raise SceditError for every fault that shows without weights."""
    _check_alone(request)
    if isinstance(request, EvaluationRequest):
        evaluate.check(request)
    dtype = getattr(request, "dtype", None)
    if dtype is not None and dtype not in PRECISIONS:
        raise SceditError(f"`dtype` {dtype}: not known", f"choose one of {', '.join(PRECISIONS)}", "dtype")
    if output.plot:
        check_plot(output.plot)
        if isinstance(request, SkipsRequest) and output.plot.suffix.lower() not in _OF_PIXELS:
            raise SceditError(f"`plot` {output.plot}: the grid of `skips` is made of pixels", "end it in .png", "plot")
    check_number(output.tolerance, "tolerance", 0)
    if isinstance(request, CostRequest | LearningRequest):
        _check_sizes(request.sizes)
    if isinstance(request, SkipsRequest):
        check_number(request.scale, "skips.scale")
        check_number(request.noise, "skips.noise", 0)
    if isinstance(request, CostRequest):
        check_methods(request.methods)
        check_storage(request.held.quantize, request.held.offload, request.held.beside)
    if isinstance(request, LearningRequest):
        check_methods(request.methods, (BASE, *METHODS))
        check_rates(request.learning_rates, request.methods)
        if request.seconds is not None:
            check_number(request.seconds, "seconds", 0.1)
    if isinstance(request, EarlierResult):
        read_values(request.path, "`show`")
    if output.baseline:
        read_values(output.baseline, "`baseline`")
    for name, place in {"plot": output.plot, "out": output.out, "keep": getattr(request, "keep", None)}.items():
        if place:
            check_writable(expanded(place), f"`{name}`")
            if name != "keep" and place.exists() and not (place.is_dir() or output.overwrite):
                raise SceditError(f"`{name}` {place} exists already", "name another file, or add `overwrite`", name)
    if not isinstance(request, EvaluationRequest):
        _check_base(getattr(request, "base", None), request)


def _check_sizes(sizes: Sizes) -> None:
    check_number(sizes.lora_rank, "lora_rank", 1, whole=True)
    if not 0 < sizes.down_ratio <= _WIDEST:
        message = f"down_ratio is {sizes.down_ratio}"
        raise SceditError(message, f"give a number above 0, at most {_WIDEST}", "down_ratio")


def _check_alone(request: Request) -> None:
    """Raise SceditError where several processes would measure on one machine at once, and none of them truly."""
    measures = not isinstance(request, EvaluationRequest | EarlierResult) and not getattr(request, "estimate", False)
    if measures and (processes := launched()) > 1:
        hint = "start it without a launcher; an evaluation of `tuners` alone shares its work"
        raise SceditError(f"a benchmark measures in one process, and {processes} were started", hint)


def _check_base(base: str | None, request: Request) -> None:
    if base in PUBLIC and isinstance(request, SkipsRequest):
        raise SceditError(
            f"`base` {base} has random weights, whose skips say nothing",
            hint="name a diffusers folder, a single file or a hub id of such a model",
        )
    if base is not None and base not in PUBLIC:
        check_model(base)
