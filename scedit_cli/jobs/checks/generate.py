"""The first checks of `scedit generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scedit_cli import scenes
from scedit_cli.conditions.annotation_spec import parameters_of
from scedit_cli.conditions.naming import check_one_of_each, check_scorable, told_kind, untold_kind
from scedit_cli.generation.config import Request, option_of
from scedit_cli.generation.filenames import Names
from scedit_cli.generation.image_jobs import ImageJob, jobs_of
from scedit_cli.generation.provenance import check_files, request_from
from scedit_cli.jobs.checks.common import check_folder, check_image, check_library
from scedit_cli.jobs.checks.tuners import header_of, known_conditions
from scedit_cli.models.names import check_autoencoder, check_model, multiple_of
from scedit_cli.scenes import WORLD
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import check_writable, expanded
from scedit_cli.utils.names import EMBEDDED
from scedit_cli.utils.specs import ConditionSpec, parse_tuner

_ASKED = (
    "prompts", "prompts_file", "negative", "seed", "num", "conds", "conds_from", "params", "scales", "sweeps",
)  # fmt: skip


def check(
    request: Request,
    *,
    from_file: str | Path | None = None,
    out: str | Path | None = None,
    template: str | None = None,
    grid: bool = False,
    score: bool = False,
    overwrite: bool = False,
) -> None:
    """Raise SceditError for every fault that shows without weights."""
    if from_file is not None:
        again, kept = request_from(expanded(from_file))
        request = request.over(again)
        check_files(expanded(from_file), kept["files"], request)
    request.check()
    orders = jobs_of(request)
    place = expanded(out or "pictures")
    names = Names(place, template, overwrite)
    names.check(len(orders), grid)
    check_writable(place, "--out")
    _check_models(request)
    _check_files(request)
    _check_conditions(request, orders, score)


def check_page(request: Request, out: str | Path | None = None) -> None:
    """Raise SceditError for every fault of `--ui` that shows without weights, and for options that the page sets."""
    names = Names(expanded(out or "pictures"), None, False)
    if names.is_file:
        raise SceditError(f"--out {out}: the page writes many pictures", hint="name a folder")
    names.check(1, False)
    if given := [name for name in _ASKED if name in request.said()]:
        raise SceditError(f"{option_of(given[0])} has no effect on the page", hint="leave it out, or leave out --ui")
    request.check()
    check_writable(names.out, "--out")
    _check_models(request)
    for text in request.tuners:
        header_of(parse_tuner(text).name)
    check_library("the page", "gradio", "ui")


def _check_models(request: Request) -> None:
    model = request.base or EMBEDDED
    check_model(model)
    if request.vae is not None:
        check_autoencoder(request.vae)
    if request.weighted:
        check_library("a weighted prompt", "compel", "prompts")
    multiple = multiple_of(WORLD / "base" if model == EMBEDDED else expanded(model))
    for option, side in (("--width", request.width), ("--height", request.height)):
        if side and multiple and side % multiple:
            near = max(1, round(side / multiple)) * multiple
            raise SceditError(
                f"{option} is {side}; the sides of base {model} are multiples of {multiple}", hint=f"{near} is nearest"
            )


def _check_files(request: Request) -> None:
    others = [("--image", request.image), ("--inpaint", request.inpaint)]
    for option, file in [*others, *(("--mask", file) for file in request.mask_files.values())]:
        if file is not None:
            check_image(expanded(file), option)
    if request.weights is not None:
        check_folder(expanded(request.weights), "--weights")


def _check_conditions(request: Request, orders: Sequence[ImageJob], score: bool) -> None:
    kinds: dict[ConditionSpec, str] = {}
    for spec in dict.fromkeys(spec for order in orders for spec in order.conditions):
        kind = told_kind(spec)
        check_image(spec.file, spec.option)
        if kind is None:
            raise untold_kind(spec)
        kinds[spec] = kind
    for specs in dict.fromkeys(order.conditions for order in orders):
        check_one_of_each((spec.file, kinds[spec]) for spec in specs)
    if score:
        check_scorable({spec.file: kind for spec, kind in kinds.items()})
    parameters_of(list(kinds.values()), request.params)
    _check_tuners(request, kinds)


def _check_tuners(request: Request, kinds: Mapping[ConditionSpec, str]) -> None:
    """Raise SceditError unless each condition has a tuner, and each tuner its condition."""
    headers = {name: header_of(name) for name in request.tuner_names}
    for name, header in headers.items():
        if header.conditions and not {None, *kinds.values()} & set(header.conditions):
            kind = header.conditions[0]
            raise SceditError(f"{name} takes a {kind} condition, and none is given", hint=f"add --cond {kind}=FILE")
    taken = known_conditions(list(headers.values()))
    shipped = scenes.shipped_tuners() if (request.base or EMBEDDED) == EMBEDDED else []
    for spec, kind in kinds.items():
        if taken is not None and kind not in (*taken, *shipped):
            raise scenes.untaken(spec.file, kind)
