"""The configuration that the options of `scedit generate` make, and the command of a configuration."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scedit_cli.cli.option_names import option_of
from scedit_cli.cli.parsing import count_seeds, parse_control, parse_margins, parse_masks, parse_scales, parse_span
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import expanded
from scedit_cli.utils.specs import parse_tuner

if TYPE_CHECKING:
    from scedit_cli.generation.config import GenerationConfig, InitImage
    from scedit_cli.inference.config import Control

# The options of those parameters of `generate` whose name is not their option's.
_WORDS = {
    "prompts_file": "--prompts", "conds": "--cond", "conds_from": "--cond-from", "scales": "--scale",
    "sweeps": "--sweep", "masks": "--mask", "seed": "--seed",
}  # fmt: skip


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
        if "fps" in known:
            output.setdefault("fps", known.pop("fps"))
        if "prompts_file" in given:
            del known["prompts"]
        if "weights" in given:
            known.pop("weights_of", None)
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
            {name: scales[0] for name, scales in parse_scales(given.get("scales", ()), "--scale").items()},
            parse_scales(given.get("sweeps", ()), "--sweep"),
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
    own_weights = dict(text.split("=", 1) for text in given.get("weights_of", ()) if "=" in text)
    kinds = dict.fromkeys(control.kind for job in jobs_of(config) for control in job.controls)
    params = parameters_of(list(kinds), given.get("params", ()), "--param")
    controls = [control for _, control in config.placed_controls()]
    made = {control.kind for control in controls if control.photo is not None}

    def with_settings(control: Control | None) -> Control | None:
        if control is None:
            return None
        takes = control.photo is not None or config.out.score or control.kind not in made
        own = params.get(control.kind, {}) if takes else {}
        return replace(control, params=own, weights=own_weights.get(control.kind, weights))

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
