"""The texts of the command line as objects, and the fields of these objects as options: nothing below knows either."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import expanded
from scedit_cli.utils.names import LARGEST_SEED
from scedit_cli.utils.specs import FRACTION, TunerSpec, parse_scale, parse_tuner, split_file

if TYPE_CHECKING:
    from scedit_cli.generation.config import GenerationConfig, InitImage
    from scedit_cli.inference.config import Control

_KIND = re.compile(r"([a-z][a-z0-9_-]*)=(.+)", re.DOTALL)
_NAMED_TUNER = re.compile(r"([a-z][a-z0-9_-]*(?:,[a-z][a-z0-9_-]*)*)=(.+)", re.DOTALL)
_SPAN = re.compile(rf"({FRACTION})-({FRACTION})")
_MOST_SEEDS = 10_000

# The options of those fields whose last part is not their option's name. Indices in brackets count for nothing.
_OPTIONS = {
    "prompts": "--prompt", "seeds": "--seed", "tuners": "--tuner", "controls": "--cond",
    "controls.photo": "--cond-from",
    "controls.params": "--param", "controls.weights": "--weights", "controls.mask": "--mask", "base.model": "--base",
    "base.fingerprint": "--from", "overrides.scales": "--scale", "overrides.sweeps": "--sweep",
    "overrides.masks": "--mask", "init": "--image", "init.strength": "--strength", "init.mask": "--inpaint",
    "init.margins": "--outpaint", "sampler.batch_size": "--batch", "batch_size": "--batch", "out.path": "--out",
    "params": "--param", "kinds": "--cond", "conditions": "--cond", "scales": "--scale", "source": "--from",
    "compiled": "--compile", "beside": "--with", "learning_rates": "--learning-rate",
}  # fmt: skip
_QUOTED = re.compile(r"`([a-z_][a-z_.]*)(?:=([^`]+)|\(([^`]*)\))?`")
_CALLS = {"explain": "train --explain"}  # functions that the command line calls otherwise
_RECIPE = ("tuner", "data", "train", "checkpoints", "samples", "validation", "tracking", "score")  # base is a field too
_CONTROL = re.compile(r"`Control\('([^'`]*)', (image|photo)\)`")


def option_of(field: str) -> str:
    """Return the option that sets a field such as "controls[0].scale"."""
    if field.startswith("-"):
        return field
    parts = re.sub(r"\[[^]]*\]", "", field).removeprefix("prompts.").split(".")
    for end in range(len(parts), 0, -1):
        if option := _OPTIONS.get(".".join(parts[:end])):
            return option
    return f"--{parts[-1].replace('_', '-')}"


def in_options(text: Any, field: str | None = None) -> Any:
    """Return a message of the library, or a document of texts, with options in place of fields and of arguments in
    backquotes: `up_blocks` becomes --up-blocks, `strict=True` --strict, `train.steps=9` --set train.steps=9, and
    `annotate(DIR, kinds=canny)` scedit annotate DIR --cond canny.

    Args:
        field: the field that the message may begin with.
    """
    if isinstance(text, dict):
        return {key: in_options(value) for key, value in text.items()}
    if isinstance(text, list | tuple):
        return type(text)(map(in_options, text))
    if not isinstance(text, str):
        return text
    if field and text.startswith(field):
        text = option_of(field) + text.removeprefix(field)
    text = _CONTROL.sub(lambda found: f"--cond{'-from' * (found[2] == 'photo')} {found[1]}={found[2].upper()}", text)
    text = text.replace("=IMAGE", "=FILE") if "--cond " in text else text
    return _QUOTED.sub(lambda found: _quoted(*found.groups()) or found[0], text)


@cache
def _known() -> frozenset[str]:
    """Return the names of all commands and options: texts of others may hold words in backquotes too."""
    from typer.main import get_command

    from scedit_cli.cli import app

    commands = get_command(app).commands
    return frozenset(commands) | {name for each in commands.values() for option in each.params for name in option.opts}


def _quoted(name: str, value: str | None, arguments: str | None) -> str | None:
    """Return what stands for `name`, `name=value` or `name(arguments)`; None where the command line has nothing."""
    if arguments is not None:
        if name not in _CALLS and name not in _known():
            return None
        place, *others = re.split(r"(?:^|, )(?=[a-z_]+=)", arguments)
        options = (_quoted(*each.split("=", 1), None) or each for each in others)
        return " ".join(("scedit", _CALLS.get(name, name), *filter(None, (place, *options))))
    if name.partition(".")[0] in _RECIPE and "." in name:
        return name if value is None else f"--set {name}={value}"
    option = option_of(name)
    if option not in _known():
        return None
    return option if value in (None, "True") else f"{option} {value}"


def parse_control(text: str, option: str = "--cond", kind: str | None = None) -> Control:
    """Parse `[KIND=]FILE[:SCALE[:START-END]]`. Colons and equal signs in an existing file's name belong to the name.
    Without a kind, the name of a condition image or of its folder gives it.

    Args:
        option: the option or place that the message names; with "--cond-from", the file is a photograph.
        kind: the kind of a text that names none.

    Raises:
        SceditError: no kind is told, the scale is no number, or the span is empty or outside 0 to 1.
    """
    from scedit_cli.conditions import kind_of_path
    from scedit_cli.inference.config import Control

    rest = text
    if kind is None and not os.path.exists(text) and (named := _KIND.fullmatch(text)):
        kind, rest = named.groups()
    name, tail = split_file(rest, most=2)
    file, is_photo = expanded(name), option == "--cond-from"
    if kind is None and is_photo:
        raise SceditError(f"{option} {file}: the kind of condition is missing", hint=f"write canny={file}")
    if (kind := kind or kind_of_path(file)) is None:
        if not file.exists():
            raise SceditError(f"{option}: {file} does not exist", hint="check the path")
        hint = f"say it: {option} canny={file}"
        raise SceditError(f"{option} {file}: neither its name nor its folder's tells the kind of condition", hint)
    scale = parse_scale(tail[0], f"{option} {text}") if tail else 1.0
    span = parse_span(tail[1], f"{option} {text}") if len(tail) == 2 else (0.0, 1.0)
    return Control(kind, **{"photo" if is_photo else "image": file}, scale=scale, start=span[0], end=span[1])


def parse_named_tuner(text: str, option: str = "tuner") -> TunerSpec:
    """Parse `[KIND,KIND=]FILE[:SCALE]`, a tuner to merge or to evaluate.

    Raises:
        SceditError: the scale is no number.
    """
    names: tuple[str, ...] = ()
    if not os.path.exists(expanded(text)) and (named := _NAMED_TUNER.fullmatch(text)):
        names, text = tuple(named[1].split(",")), named[2]
    return replace(parse_tuner(text, option), conditions=names)


def parse_span(text: str, where: str) -> tuple[float, float]:
    """Parse `START-END`, two fractions of the steps; `where` begins the error's sentence.

    Raises:
        SceditError: it is no such pair, empty, or outside 0 to 1.
    """
    found = _SPAN.fullmatch(text)
    start, end = map(float, found.groups()) if found else (0.0, 0.0)
    if not 0 <= start < end <= 1:
        raise SceditError(
            f"{where}: {text!r} is no part of the steps",
            hint="write two fractions from 0 to 1, as in 0-0.5 for the first half",
        )
    return start, end


def parse_named(text: str, option: str, example: str) -> tuple[str, str]:
    """Parse `NAME=VALUE`, with NAME a kind of condition, a column or a tuner's name.

    Raises:
        SceditError: it has no name or no value.
    """
    name, _, value = text.partition("=")
    if not (name and value):
        raise SceditError(f"{option} {text}: expected NAME=VALUE", hint=f"write it as in {option} {example}")
    return name, value


def parse_scales(text: str, option: str) -> tuple[str, tuple[float, ...]]:
    """Parse `NAME=SCALE,SCALE,...`; with the option --scale, one scale alone.

    Raises:
        SceditError: a scale is no number, or there are none or too many.
    """
    name, values = parse_named(text, option, "canny=0.5" if option == "--scale" else "canny=0,0.5,1")
    scales = tuple(parse_scale(value.strip(), f"{option} {text}") for value in values.split(","))
    if option == "--scale" and len(scales) > 1:
        raise SceditError(f"{option} {text}: several scales", hint="--sweep makes an image for each")
    return name, scales


def parse_seeds(text: str, where: str = "--seed") -> tuple[int, ...]:
    """Parse `7`, `1,2,3`, `1-8` or a mixture such as `1-3,7` into at most 10,000 seeds, in this order.

    Raises:
        SceditError: a seed is no whole number from 0 to 2⁶⁴ − 1, a range counts down, or there are more.
    """
    seeds: list[int] = []
    for part in str(text).split(","):
        found = re.fullmatch(r"\s*(\d{1,20})(?:-(\d{1,20}))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        count = last - first + 1
        if count < 1 or last > LARGEST_SEED or len(seeds) + count > _MOST_SEEDS:
            raise SceditError(
                f"{where} is {text}" if count < 1 or last > LARGEST_SEED else f"{where}: more than {_MOST_SEEDS} seeds",
                hint=f"give a number from 0 to {LARGEST_SEED}, several as 1,2,3, or a range as 1-8",
            )
        seeds += range(first, last + 1)
    return tuple(seeds)


def count_seeds(text: str | int | None, num: int | None) -> tuple[int, ...]:
    """Return the seeds of --seed, or `num` seeds that count on from its one.

    Raises:
        SceditError: as `parse_seeds`; or there are several to count on from, or they pass the largest.
    """
    seeds = (0,) if text is None else parse_seeds(str(text))
    if num is None:
        return seeds
    if num < 1:
        raise SceditError(f"--num is {num}", hint="give 1 or more")
    if len(seeds) > 1:
        hint = "give --seed one number to count on from, or no --num"
        raise SceditError(f"--num {num} and {len(seeds)} seeds", hint)
    if seeds[0] + num - 1 > LARGEST_SEED:
        raise SceditError(f"--seed {seeds[0]} --num {num}: the largest seed is {LARGEST_SEED}", "begin lower")
    return tuple(range(seeds[0], seeds[0] + num))


def parse_margins(text: str) -> tuple[int, int, int, int]:
    """Parse `PIXELS` for every side, or `LEFT,TOP,RIGHT,BOTTOM`, into four margins in pixels.

    Raises:
        SceditError: the text is not one or four whole numbers from 0 on, or all are zero.
    """
    parts = [part.strip() for part in text.split(",")]
    sides = [int(part) for part in parts if re.fullmatch(r"\d{1,5}", part)]
    if len(sides) != len(parts) or len(sides) not in (1, 4) or not any(sides):
        raise SceditError(
            f"--outpaint {text}: no margins", hint="give the pixels to add: 64 all around, or LEFT,TOP,RIGHT,BOTTOM"
        )
    left, top, right, bottom = sides * (4 // len(sides))
    return left, top, right, bottom


def parse_masks(texts: Iterable[str]) -> dict[str, Path]:
    """Parse `NAME=FILE` texts.

    Raises:
        SceditError: a text has another form, or two name the same.
    """
    masks: dict[str, Path] = {}
    for text in texts:
        name, file = parse_named(text, "--mask", "canny=left.png")
        if name in masks:
            raise SceditError(f"two masks for {name}", hint="paint them into one image")
        masks[name] = expanded(file)
    return masks


def given_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are given: a value that is None, False or empty stands for one that is not."""
    empty = {name for name, value in options.items() if value is None or value is False or value in ((), [])}
    return {name: value for name, value in options.items() if name not in empty}


def generation_config(options: Mapping[str, Any]) -> GenerationConfig:
    """Return the `GenerationConfig` of the options of `scedit generate`, by the names of the function's parameters.

    With `from_file`, the settings of that image stand for options that are not given.

    Raises:
        SceditError: a text is invalid, files are missing, or files of `from_file` are changed.
    """
    from scedit_cli.generation.config import BaseConfig, GenerationConfig, OutputConfig, Overrides, Prompt
    from scedit_cli.generation.provenance import check_files, settings_to_remake
    from scedit_cli.inference.config import SamplerConfig

    given, made = given_of(options), None
    output = {name: given.pop(name) for name in ("name", "grid", "score", "overwrite", "fps") if name in given}
    place, path = given.pop("out", None), given.pop("from_file", None)
    if path is not None:
        known, made = settings_to_remake(expanded(path))
        if "prompts_file" in given:
            del known["prompts"]
        if given:
            made = made | {"batch": None}
        given = known | given
    prompts = [Prompt(text) for text in given.get("prompts", ())]
    if "prompts_file" in given:
        from scedit_cli.cli.prompt_files import read_prompts

        prompts += read_prompts(expanded(given["prompts_file"]))
    sampler = _picked(SamplerConfig, given)
    if "guidance_span" in given:
        sampler["guidance_span"] = parse_span(given["guidance_span"], "--guidance-span")
    base = _picked(BaseConfig, given) | {"model": given["base"] for _ in range("base" in given)}
    if made:
        base["fingerprint"] = made.get("base_fingerprint", "")
        sampler["place"] = tuple(made["batch"]) if made.get("batch") else None
    config = GenerationConfig(
        prompts=prompts or [Prompt()],
        base=BaseConfig(**base),
        tuners=[parse_tuner(text, "--tuner") for text in given.get("tuners", ())],
        controls=[parse_control(text) for text in given.get("conds", ())]
        + [parse_control(text, "--cond-from") for text in given.get("conds_from", ())],
        overrides=Overrides(
            {name: scales[0] for name, scales in (parse_scales(text, "--scale") for text in given.get("scales", ()))},
            dict(parse_scales(text, "--sweep") for text in given.get("sweeps", ())),
            parse_masks(given.get("masks", ())),
        ),
        init=_init_image(given),
        seeds=count_seeds(given.get("seed"), given.get("num")),
        sampler=SamplerConfig(**sampler),
        out=OutputConfig(expanded(place or "pictures"), **output),
    )
    config = _with_annotators(config, given)
    if made:
        check_files(expanded(path), made["files"], config)
    return config


def _picked(config: type, given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in config.__dataclass_fields__ if name in given}


def _init_image(given: Mapping[str, Any]) -> InitImage | None:
    from scedit_cli.generation.config import InitImage

    if "image" not in given:
        for name in ("strength", "inpaint", "outpaint"):
            if name in given:
                raise SceditError(f"--{name} needs an image to start from", hint="add --image FILE")
        return None
    margins = parse_margins(given["outpaint"]) if "outpaint" in given else (0, 0, 0, 0)
    mask = expanded(given["inpaint"]) if "inpaint" in given else None
    return InitImage(expanded(given["image"]), given.get("strength"), mask, margins)


def _with_annotators(config: GenerationConfig, given: Mapping[str, Any]) -> GenerationConfig:
    """Return the configuration with the settings and weights of annotators at the controls of their kinds: at those
    that are made, or at all where images are scored or none is made."""
    from scedit_cli.conditions.annotation_spec import parameters_of
    from scedit_cli.generation.image_jobs import jobs_of

    weights = expanded(given["weights"]) if "weights" in given else None
    kinds = dict.fromkeys(control.kind for job in jobs_of(config) for control in job.controls)
    params = parameters_of(list(kinds), given.get("params", ()), "--param")
    controls = [control for _, control in config.placed_controls()]
    made = {control.kind for control in controls if control.photo is not None}

    def with_settings(control: Control | None) -> Control | None:
        if control is None:
            return None
        takes = control.photo is not None or config.out.score or control.kind not in made
        return replace(control, params=params.get(control.kind, {}) if takes else {}, weights=weights)

    prompts = [
        replace(prompt, controls={kind: with_settings(control) for kind, control in prompt.controls.items()})
        for prompt in config.prompts
    ]
    return replace(config, controls=[with_settings(control) for control in config.controls], prompts=prompts)


def command_line(options: Mapping[str, Any], config: GenerationConfig, out: Path) -> str:
    """Return the command that makes the images of a page's `config`; `options` are those it was opened
    with."""
    from scedit_cli.generation.provenance import control_text

    texts = {
        "prompts": [prompt.text for prompt in config.prompts if prompt.text],
        "negative": config.sampler.negative or None,
        "seed": ",".join(map(str, config.seeds)),
        "conds": [control_text(each, brief=True) for each in config.controls if each.photo is None],
        "conds_from": [control_text(each, brief=True) for each in config.controls if each.photo is not None],
        "tuners": [f"{t.source}" if t.scale in (None, 1) else f"{t.source}:{t.scale:g}" for t in config.tuners],
        "scales": [f"{name}={scale:g}" for name, scale in config.overrides.scales.items()],
        "steps": config.sampler.steps,
        "guidance": config.sampler.guidance,
    }
    words = ["scedit", "generate"]
    for name, value in given_of(dict(options) | texts | {"out": str(out)}).items():
        option = _WORDS.get(name) or option_of(name)
        for each in value if isinstance(value, list | tuple) else [value]:
            words += [option] if each is True else [option, str(each)]
    return shlex.join(words)


_WORDS = {
    "prompts_file": "--prompts", "conds": "--cond", "conds_from": "--cond-from", "scales": "--scale",
    "sweeps": "--sweep", "masks": "--mask", "seed": "--seed",
}  # fmt: skip
