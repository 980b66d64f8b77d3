"""The first checks of `scedit generate`: every fault that shows without weights."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from scedit_cli import conditions, scenes
from scedit_cli.exporting.formats import read_description
from scedit_cli.generation.config import BaseConfig, GenerationConfig
from scedit_cli.generation.filenames import FORMATS, VIDEO_FORMATS, Names
from scedit_cli.generation.image_jobs import ImageJob, jobs_of
from scedit_cli.generation.provenance import image_files
from scedit_cli.inference.config import Control, SamplerConfig
from scedit_cli.jobs.checks.common import check_folder, check_library
from scedit_cli.jobs.checks.tuners import Header, header_of, known_conditions
from scedit_cli.jobs.checks.video import check_frames_folders, check_video
from scedit_cli.models.names import check_autoencoder, check_model, multiple_of
from scedit_cli.scenes import WORLD
from scedit_cli.utils.errors import SceditError, in_field
from scedit_cli.utils.io import check_writable, expanded
from scedit_cli.utils.names import EMBEDDED
from scedit_cli.utils.specs import TunerSpec

if TYPE_CHECKING:
    from scedit_cli.core.bundle import Bundle
    from scedit_cli.core.tuners import Tuner
    from scedit_cli.models.base import Base


def check(config: GenerationConfig) -> None:
    """Raise SceditError for every fault that shows without weights."""
    config.check()
    if is_video := config.sampler.frames is not None:
        check_video(config)
    if config.base.unet is not None:
        config = _with_graph(config)
    jobs = jobs_of(config)
    if config.sampler.place is not None and len(jobs) > 1:
        message = f"sampler.place {tuple(config.sampler.place)} is of one image, and {len(jobs)} are to be made"
        raise SceditError(message, "leave it out, or give one prompt and one seed", "sampler.place")
    if config.out.path is not None:
        formats = VIDEO_FORMATS if is_video else FORMATS
        names = Names(expanded(config.out.path), config.out.name, config.out.overwrite, formats)
        names.check(len(jobs), config.out.grid)
        if is_video:
            check_frames_folders(names, len(jobs), image_files(config))
        check_writable(names.out, "out")
    _check_models(config.base, config.sampler)
    if config.sampler.control_guidance != 1 and not config.placed_controls():
        message = "sampler.control_guidance has no effect without a condition image"
        raise SceditError(message, "leave `control_guidance` out, or give one", "sampler.control_guidance")
    for place, control in config.placed_controls():
        if control.weights is not None:
            check_folder(expanded(control.weights), f"{place}.weights")
    _check_conditions(config, jobs)


def _with_graph(config: GenerationConfig) -> GenerationConfig:
    """Return the configuration with the base and the tuners of its exported U-Net.

    Raises:
        SceditError: there is no such graph, or it takes no such setting.
    """
    with in_field("base.unet", named=False):
        about = read_description(expanded(config.base.unet))
    if config.tuners:
        message = f"{config.base.unet} has its tuners in it, and takes no others"
        raise SceditError(message, "leave `tuners` out, or export them with it", "tuners")
    if config.base.dtype not in (None, about["dtype"]):
        message = f"base.dtype is {config.base.dtype}, and the U-Net was exported in {about['dtype']}"
        raise SceditError(message, "leave `dtype` out", "base.dtype")
    for name in ("offload", "compile"):
        if getattr(config.base, name):
            message = f"base.{name} has no effect on an exported U-Net"
            raise SceditError(message, f"leave `{name}` out", f"base.{name}")
    if config.sampler.reuse != 1:
        message = "sampler.reuse has no effect on an exported U-Net, whose layers cannot be left out"
        raise SceditError(message, "leave `reuse` out", "sampler.reuse")
    if config.overrides.masks or any(control.mask is not None for _, control in config.placed_controls()):
        message = "an exported U-Net takes no masks of its tuners"
        raise SceditError(message, "leave `overrides.masks` out", "overrides.masks")
    if about["file"].endswith(".onnx"):
        check_library("a U-Net in ONNX", "onnxruntime", "onnx")
    tuners = SimpleNamespace(tuners=[SimpleNamespace(condition=condition) for condition in about["conditions"]])
    return replace(config, tuners=(TunerSpec(tuners),), base=replace(config.base, model=graph_base(config.base, about)))


def graph_base(base: BaseConfig, about: Mapping[str, Any]) -> str | Path | Base:
    """Return the model of an exported U-Net: the one that its description names, unless another is given."""
    if base.model != EMBEDDED:
        return base.model
    return f"{about['base']}@{about['base_revision']}" if about.get("base_revision") else about["base"]


def check_page(config: GenerationConfig) -> None:
    """Raise SceditError for every fault of the page that shows without weights."""
    names = Names(expanded(config.out.path), None, False)
    if names.is_file:
        raise SceditError(f"out {config.out.path}: the page writes many images", "name a folder", "out")
    names.check(1, False)
    if config.sampler.frames is not None:
        message = "sampler.frames has no effect on the page, which makes images"
        raise SceditError(message, "leave it out", "sampler.frames")
    config.check()
    check_writable(names.out, "out")
    _check_models(config.base, config.sampler)
    for i, spec in enumerate(config.tuners):
        with in_field(f"tuners[{i}]", named=False):
            header_of(str(spec.source))
    check_library("the page", "gradio", "ui")


def _check_models(base: BaseConfig, sampler: SamplerConfig) -> None:
    model = _model(base)
    if base.loaded:
        multiple = base.loaded.multiple
    else:
        with in_field("base.model", named=False):
            check_model(model)
        multiple = multiple_of(WORLD / "base" if model == EMBEDDED else expanded(model))
    if base.vae is not None:
        with in_field("base.vae", named=False):
            check_autoencoder(base.vae)
    if sampler.weighted:
        check_library("a weighted prompt", "compel", "prompts")
    for name, side in (("width", sampler.width), ("height", sampler.height)):
        if side and multiple and side % multiple:
            near, field = max(1, round(side / multiple)) * multiple, f"sampler.{name}"
            message = f"{field} is {side}; the sides of base {model} are multiples of {multiple}"
            raise SceditError(message, f"{near} is nearest", field)


def _model(base: BaseConfig) -> str:
    return base.loaded.name if base.loaded else str(base.model)


def _header(source: str | Path | Tuner | Bundle) -> Header:
    """Return the conditions of a tuner: its file's header, or the tuner in memory."""
    if isinstance(source, str | os.PathLike):
        return header_of(str(source))
    tuners = getattr(source, "tuners", [source])
    known = all(hasattr(each, "condition") and (each.condition or "")[:4] != "hint" for each in tuners)
    return Header(tuple(each.condition for each in tuners)) if known else Header()


def _check_conditions(config: GenerationConfig, jobs: Sequence[ImageJob]) -> None:
    """Raise SceditError unless an image's conditions differ in kind, can be scored if that is asked for, and each has a
    tuner and each tuner its condition."""
    used: dict[int, Control] = {}
    for job in jobs:
        names: dict[str, str] = {}
        for control in job.controls:
            used[id(control)] = control
            if control.kind in names:
                raise SceditError(
                    f"{names[control.kind]} and {control.name} are both {control.kind} conditions",
                    f"give one of each kind; `Control('{control.kind}', image)` says of which kind an image is",
                    "controls",
                )
            names[control.kind] = control.name
    if config.out.score:
        _check_scorable(used.values())
    places = {id(control): place for place, control in config.placed_controls()}
    _check_tuners(config, {places[key]: control for key, control in used.items()})


def _check_scorable(controls: Collection[Control]) -> None:
    if not controls:
        raise SceditError(
            "out.score compares images with conditions, and none is given", "add one with `controls`", "out.score"
        )
    for control in controls:
        if control.kind not in conditions.measured_kinds():
            raise SceditError(
                f"{control.name}: images cannot be scored against {control.kind} conditions",
                f"leave `score` out; it knows {', '.join(conditions.measured_kinds())}",
                "out.score",
            )


def _check_tuners(config: GenerationConfig, controls: Mapping[str, Control]) -> None:
    """Raise SceditError unless each of the `controls`, by field, has a tuner, and each tuner its condition."""
    kinds = {control.kind for control in controls.values()}
    files = {f"tuners[{i}]": spec.source for i, spec in enumerate(config.tuners)}
    headers = []
    for place, source in files.items():
        with in_field(place, named=False):
            headers.append(header := _header(source))
        if header.conditions and not {None, *kinds} & set(header.conditions):
            kind, name = header.conditions[0], source if isinstance(source, str) else place
            raise SceditError(
                f"{name} takes a {kind} condition, and none is given", f"add `Control('{kind}', image)`", place
            )
    taken = known_conditions(headers)
    shipped = scenes.shipped_tuners() if _model(config.base) == EMBEDDED else []
    for place, control in controls.items():
        if taken is not None and control.kind not in (*taken, *shipped):
            raise scenes.untaken(control.name, control.kind, place)
