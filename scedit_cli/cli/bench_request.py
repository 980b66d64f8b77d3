"""The request that the options of `scedit bench` make: their texts are read, and options without effect refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scedit_cli.benchmark.modes import BASE, DEFAULT_METHODS
from scedit_cli.benchmark.requests import (
    CostRequest,
    EarlierResult,
    EvaluationRequest,
    Held,
    LearningRequest,
    Output,
    Request,
    SamplingRequest,
    Sizes,
    SkipsRequest,
)
from scedit_cli.cli.option_names import option_of
from scedit_cli.inference.sampling_options import SamplingOptions
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.specs import parse_tuner

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?")
_MODE_FLAGS = ("estimate", "sampling", "skips", "quality", "show")
_SIZES = "lora_rank lora_feed_forward down_ratio"
_HELD = "quantize offload beside"
_MODES = {
    "": f"base methods batch resolution dtype device steps rounds compiled {_SIZES} quantize offload fits batches plot "
        "baseline",
    "--estimate": f"base methods batch resolution dtype device {_SIZES} {_HELD} fits batches plot baseline",
    "--sampling": "base resolution dtype device steps scenes plot",
    "--skips": "base prediction resolution dtype device steps scenes skip_scale skip_noise plot",
    "--quality": f"methods device batch steps seconds seeds scenes learning_rates {_SIZES} keep plot baseline",
    "--quality --tuner": "base prediction dtype device tuners against data protocol images scenes batch steps guidance "
    "control_guidance scheduler seed weights clip inception keep baseline",
    "--show": "plot baseline",
}
_SIZES_USE = {"lora_rank": ("lora",), "lora_feed_forward": ("lora",), "down_ratio": ("sc", "csc")}
_BATCHES = (1, 16)  # at which peak memory is estimated for the plot, besides the measured batch


def request_of(options: Mapping[str, Any]) -> tuple[Request, Output]:
    """Return the request that the options make, by their names in Python; those that are not given are None or empty.

    Raises:
        SceditError: two modes are chosen, an option has no effect, or a text cannot be read.
    """
    given = {name: value for name, value in options.items() if value or (value == 0 and value is not False)}
    mode = _mode_of(given)
    methods = tuple(dict.fromkeys(given.get("methods") or DEFAULT_METHODS))
    tolerance = read_tolerance(str(given.get("tolerance", 0.05)))
    _check_use(given, methods, mode)
    output = Output(*(_path(given.get(name)) for name in ("plot", "out", "baseline")), tolerance, "overwrite" in given)
    if mode == "--show":
        return EarlierResult(Path(given["show"])), output
    kind = {"--sampling": SamplingRequest, "--skips": SkipsRequest, "--quality": LearningRequest,
            "--quality --tuner": EvaluationRequest}.get(mode, CostRequest)  # fmt: skip
    names = {"skip_scale": "scale", "skip_noise": "noise"}
    fields = {names.get(name, name): value for name, value in given.items() if name in _MODES[mode].split()}
    gathered = *_SIZES.split(), *_HELD.split(), "plot", "baseline"
    fields = {name: value for name, value in fields.items() if name not in gathered}
    if kind in (CostRequest, LearningRequest):
        fields["sizes"] = Sizes(**{name: given[name] for name in _SIZES.split() if name in given})
    if "methods" in fields:
        fields["methods"] = methods
    if "keep" in fields:
        fields["keep"] = Path(fields["keep"])
    if kind is EvaluationRequest:
        fields = _evaluated(fields)
    if kind is CostRequest:
        fields |= {"estimate": mode == "--estimate"}
        fields["held"] = Held(**{name: given[name] for name in _HELD.split() if name in given})
        if "fits" in fields:
            fields["fits"] = read_size(fields["fits"])
        if output.plot and "batches" not in fields:
            fields["batches"] = _BATCHES
    return kind(**fields), output


def _evaluated(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an `EvaluationRequest`; "none" stands for no tuner."""
    if "scenes" in fields and "data" in fields:
        raise SceditError("--scenes counts held-out scenes, and --data names other images", "--images counts those")
    names = {name: name for name in ("steps", "guidance", "control_guidance", "scheduler", "seed")}
    names["batch"] = "batch_size"
    sampling = SamplingOptions(**{field: fields.pop(name) for name, field in names.items() if name in fields})
    for name in ("tuners", "against"):
        if name in fields:
            texts, option = fields[name], _option(name)
            if "none" in texts and len(texts) > 1:
                raise SceditError(f"{option} none together with other tuners", hint="it stands for the base alone")
            fields[name] = [parse_tuner(text, option) for text in texts if text != "none"]
    if "scenes" in fields:
        fields["images"] = fields.pop("scenes")
    paths = {name: Path(fields[name]) for name in ("weights", "clip", "inception", "keep") if name in fields}
    return fields | paths | {"sampling": sampling}


def _option(name: str) -> str:
    return "--seeds" if name == "seeds" else option_of(name)  # `scedit generate` sets its seeds by --seed


def _path(value: Any) -> Path | None:
    return None if value is None else Path(value)


def _mode_of(given: Mapping[str, Any]) -> str:
    """Return the mode that the options choose; "" measures the costs of methods."""
    if len(asked := [f"--{name}" for name in _MODE_FLAGS if name in given]) > 1:
        raise SceditError(f"{' and '.join(asked)} are two questions", hint="run bench once for each")
    if "tuners" in given and "quality" not in given:
        raise SceditError(f"--tuner {given['tuners'][0]}: only --quality measures tuners", hint="add --quality")
    mode = "--quality --tuner" if "tuners" in given else asked[0] if asked else ""
    for name in given:
        if name in (*_MODE_FLAGS, "tolerance", "out", "overwrite") or name in _MODES[mode].split():
            continue
        takers = [f"scedit bench {other}".strip() for other, known in _MODES.items() if name in known.split()]
        raise SceditError(
            f"{_option(name)} does nothing {f'with {mode}' if mode else 'where costs are measured'}",
            hint=f"it belongs to {' and '.join(takers)}",
        )
    return mode


def _check_use(given: Mapping[str, Any], methods: Sequence[str], mode: str) -> None:
    """Raise SceditError if an option belongs to methods that are not among these, or to another option."""
    unused = {} if "baseline" in given else {"tolerance": "--baseline"}
    if not {"plot", "out"} & set(given):
        unused["overwrite"] = "--plot or --out"
    for name, kinds in _SIZES_USE.items():
        if not any(method.split("-")[0] in kinds for method in methods):
            unused[name] = f"--methods {' or '.join(kinds)}"
    if mode == "--quality" and set(methods) == {BASE}:
        unused |= dict.fromkeys(("steps", "seconds", "seeds", "batch"), "a method that is trained")
    if mode == "--sampling" and "plot" not in given:
        unused["scenes"] = "--plot"
    for name, by in unused.items():
        if name in given:
            raise SceditError(f"{_option(name)} does nothing without {by}", f"add {by}, or leave the option out")


def read_tolerance(text: str) -> float:
    """Return the share that "0.05" or "5%" means.

    Raises:
        SceditError: `text` is not such a share.
    """
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise SceditError(f"--tolerance {text}: no share of a figure", hint="write it as 5% or 0.05")
    return value


def read_size(text: str) -> int:
    """Return the bytes that "12GiB", "12GB" or a plain number means.

    Raises:
        SceditError: `text` is not a plausible size of memory.
    """
    found = _SIZE.fullmatch(text.strip())
    number, prefix, binary = found.groups() if found else ("0", None, None)
    size = int(float(number) * (1024 if binary else 1000) ** "_KMGT".index(prefix or "_"))
    if size < 2**20:  # probably a number whose unit is missing, such as 12
        raise SceditError(f"--fits {text}: no size of a memory", hint="write it as 12GiB")
    return size
