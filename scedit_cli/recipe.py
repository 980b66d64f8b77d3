"""Recipes: the TOML files that say what to train, on what, and how. Unknown keys and bad values are told all at once.

>>> recipe = load_recipe("canny.toml", ["train.steps=200"])
>>> recipe.train.steps
200
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from scedit_cli.errors import SceditError

_INPUT = re.compile("^(Input|String|List) should")
_HELD_OUT = 1_000_000_000  # scenes.HELD_OUT_SEED
_LARGEST = 2**63 - 1  # TOML's and PyTorch's largest integer


class _Section(BaseModel):
    # Strict, so that `steps = true` or `steps = "200"` is an error and not the number 1 or 200.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class BaseSection(_Section):
    """The frozen pipeline: the embedded "scenes", or a diffusers folder, a hub id or a single file."""

    model: str = Field("scenes", min_length=1)
    revision: str | None = None  # of a hub id


class TunerSection(_Section):
    """What is trained; the sizes are those of SCEdit's sections 3.2 and 3.3."""

    kind: Literal["sc", "csc"]
    condition: str | None = Field(None, pattern=r"^[a-z][a-z0-9_-]*$")  # csc only: the kind of its condition pictures
    down_ratio: float = Field(1.0, gt=0, le=8)  # hidden width of a tuner / channels of its skip
    hint_kernel: Literal[1, 3, 5, 7] = 1
    hint_channels: int = Field(256, ge=8, le=4096)  # between the hint encoder's stem and its chain
    hint_width: float = Field(1.0, gt=0, le=8)  # factor on the widths of the stem

    @model_validator(mode="after")
    def _hints_belong_to_csc(self) -> TunerSection:
        if self.kind == "csc" and self.condition is None:
            raise _mistake("tuner.condition", 'missing; a csc tuner needs one, such as "canny"')
        if self.kind == "sc":
            for key in ("condition", "hint_kernel", "hint_channels", "hint_width"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise _mistake(f"tuner.{key}", 'an sc tuner takes no hint; leave it out, or set tuner.kind = "csc"')
        return self


class DataSection(_Section):
    """Pictures to learn from: a dataset folder, or scenes rendered for the run."""

    path: str | None = Field(None, min_length=1)  # a dataset folder; left out, scenes are rendered
    scenes: int = Field(2048, ge=1, le=1_000_000)
    seed: int = Field(0, ge=0, le=_LARGEST)  # of the first scene
    look: Literal["plain", "pastel"] = "plain"
    caption_dropout: float = Field(0.1, ge=0, le=1)  # share of captions left empty, for classifier-free guidance
    make: list[str] = []  # kinds of condition that are made of the pictures while training, instead of read
    params: list[str] = []  # settings of those that make them, as annotate's --param takes them

    @model_validator(mode="after")
    def _held_out_scenes_stay_unseen(self) -> DataSection:
        if self.path is None and self.seed + self.scenes > _HELD_OUT:
            raise _mistake("data.seed", f"scenes from {_HELD_OUT} on are for measuring; take a smaller seed")
        return self


class TrainSection(_Section):
    """The optimisation: AdamW on the noise-prediction loss."""

    steps: int = Field(600, ge=1, le=10_000_000)
    batch_size: int = Field(16, ge=1, le=4096)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    weight_decay: float = Field(0.01, ge=0, le=1)
    warmup: int = Field(0, ge=0, le=1_000_000)  # steps of linear rise to learning_rate
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    seed: int = Field(0, ge=0, le=_LARGEST)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the frozen base; the tuner is always fp32
    memory: Literal["plain", "lean", "checkpoint"] = "lean"  # what is kept for the backward pass
    recompute: Literal["transformer", "layer", "fine"] = "layer"  # what memory = "checkpoint" runs again, part by part
    loss_weighting: Literal["none", "min-snr"] = "none"
    snr_gamma: float = Field(5.0, gt=0, le=1000)
    timesteps: Literal["uniform", "logit-normal", "shifted"] = "uniform"
    timestep_shift: float = Field(3.0, gt=0, le=100)  # s of t' = s·t / (1 + (s - 1)·t), t in [0, 1]; above 1: noisier
    max_grad_norm: float = Field(1.0, ge=0)  # 0: gradients are not clipped
    ema_decay: float = Field(0.0, ge=0, lt=1)  # 0: no moving average of the weights
    checkpoint_every: int = Field(200, ge=0)  # steps; 0: at the end alone
    log_every: int = Field(1, ge=1)  # steps


class SamplesSection(_Section):
    """The fixed-seed picture grids drawn while training."""

    every: int = Field(200, ge=0)  # steps; 0: none
    count: int = Field(4, ge=1, le=64)
    seed: int = Field(0, ge=0, le=_LARGEST)
    steps: int = Field(20, ge=1, le=1000)  # of the sampler
    guidance: float = Field(4.0, ge=0, le=100)
    prompts: list[str] | None = Field(None, min_length=1)  # left out: the captions of the pictures


class ScoreSection(_Section):
    """The control score at the end, on the embedded base."""

    scenes: int = Field(32, ge=0, le=100_000)  # held-out ones; 0: no score


class Recipe(_Section):
    """A whole recipe, checked. `name` is its file's stem, after which runs are called."""

    base: BaseSection = BaseSection()
    tuner: TunerSection
    data: DataSection = DataSection()
    train: TrainSection = TrainSection()
    samples: SamplesSection = SamplesSection()
    score: ScoreSection = ScoreSection()
    _name: str = PrivateAttr("recipe")

    @model_validator(mode="after")
    def _scenes_need_the_embedded_base(self) -> Recipe:
        if self.base.model != "scenes" and self.data.path is None:
            raise _mistake("data.path", f"missing; the base {self.base.model} needs a dataset folder to learn from")
        return self

    @model_validator(mode="after")
    def _what_is_made_is_taken(self) -> Recipe:
        for kind in self.data.make:
            if kind != self.tuner.condition:
                raise _mistake("data.make", f"{kind} is made for nobody; the tuner takes {self.tuner.condition}")
        if self.data.params and not self.data.make:
            raise _mistake("data.params", 'settings of nothing; say what is made, as in data.make = ["canny"]')
        return self

    @property
    def name(self) -> str:
        return self._name

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "recipe") -> Recipe:
        """Checks `values`, section -> key -> value. `source` names the recipe in messages.

        Raises:
            SceditError: every unknown key and bad value, in one message.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            mistakes = [_sentence(detail) for detail in error.errors(include_url=False)]
        if len(mistakes) == 1:
            message = f"{source}: {mistakes[0]}"
        else:
            message = "\n  ".join([f"{source} has {len(mistakes)} mistakes:", *mistakes])
        raise SceditError(message, hint=f"every key is explained in {builtin_recipes()['canny']}")

    def to_toml(self) -> str:
        """The recipe with every default filled in, as text that load_recipe reads back to the same values."""
        return tomlkit.dumps(self.model_dump(exclude_none=True))


def load_recipe(name: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Reads the file `name`, else the built-in recipe of that name ("canny.toml" or "canny").

    `overrides` are "section.key=value", the value in TOML's syntax or, failing that, plain text. Relative paths in a
    recipe are those of the working folder; the recipe returned holds them absolute.

    Raises:
        SceditError: no such recipe, no TOML, or mistakes in it, all of them told at once.
    """
    path = _find(name)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SceditError(f"{path} is not valid TOML: {error}", hint="a recipe is a TOML file") from None
    except OSError as error:
        raise SceditError(f"{path} cannot be read: {error.strerror}", hint="name a file you can read") from None
    for override in overrides:
        _override(values, override)
    for section, key in (("base", "model"), ("data", "path")):
        _make_absolute(values.get(section), key)
    recipe = Recipe.from_dict(values, source=str(name))
    # runs/canny/recipe.toml, the recipe of an earlier run, is called canny.
    recipe._name = path.resolve().parent.name if path.name == "recipe.toml" else path.stem
    return recipe


def builtin_recipes() -> dict[str, Path]:
    """The recipes that come with scedit, by name."""
    package = Path(__file__).parent
    # A wheel carries them inside the package, a source checkout beside it.
    folder = next((f for f in (package / "recipes", package.parent / "recipes") if f.is_dir()), None)
    return {path.stem: path for path in sorted(folder.rglob("*.toml"))} if folder else {}


def _find(name: str | Path) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        return path
    builtin = builtin_recipes()
    if path.name == str(path) and path.suffix in ("", ".toml") and path.stem in builtin:
        return builtin[path.stem]
    if path.is_dir():
        raise SceditError(f"{path} is a folder, not a recipe", hint=f"name a file, or one of {', '.join(builtin)}")
    guess = _guess(path.stem, builtin)
    raise SceditError(f"there is no recipe {name}{guess}", hint=f"name a file, or one of {', '.join(builtin)}")


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *sections, last = key.strip().split(".")
    if not equals or not sections or not all((*sections, last)):
        raise SceditError(f"--set {override}: expected SECTION.KEY=VALUE", hint="for example --set train.steps=200")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise SceditError(f"--set {override}: {section} is no section", hint="for example --set train.steps=200")
    values[last] = _value(text.strip())


def _value(text: str) -> Any:
    """`text` read as a TOML value; what TOML does not read, or reads as a date, is taken as it stands."""
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = read.pop("value")
    return value if not read and isinstance(value, bool | int | float | str | list) else text


def _make_absolute(section: Any, key: str) -> None:
    """A path that exists becomes absolute, so that the resolved recipe runs from any folder; hub ids stay."""
    value = section.get(key) if isinstance(section, dict) else None
    if isinstance(value, str) and value != "scenes" and (path := Path(value).expanduser()).exists():
        section[key] = str(path.resolve())


def _mistake(key: str, what: str) -> PydanticCustomError:
    return PydanticCustomError("mistake", "{key}: {what}", {"key": key, "what": what})


def _sentence(detail: ErrorDetails) -> str:
    """One of pydantic's errors as "section.key: what is wrong"."""
    location, value, message = detail["loc"], detail["input"], detail["msg"]
    key = ".".join(map(str, location))
    match detail["type"]:
        case "mistake":
            return message
        case "missing":
            return f"{key}: missing"
        case "extra_forbidden":
            return f"{key}: unknown{_guess_key(location)}"
        case "literal_error":
            choices = [str(choice) for choice in get_args(_annotation(location))]
            return f"{key}: {value!r} is none of {', '.join(choices)}{_guess(str(value), choices)}"
        case "string_type":
            return f'{key}: expected text, not {value!r}; quote it: {key} = "{value}"'
        case "model_type" | "model_attributes_type":
            return f"{key}: expected a section [{key}] with keys, not {value!r}"
        case _:
            return f"{key}: {value!r} {_INPUT.sub('should', message)}"


def _annotation(location: tuple[int | str, ...]) -> Any:
    section, key = location
    return Recipe.model_fields[section].annotation.model_fields[key].annotation


def _guess_key(location: tuple[int | str, ...]) -> str:
    """A like key of the same section, else of any other; a like section for a section."""
    if len(location) == 1:
        return _guess(str(location[0]), Recipe.model_fields)
    section, key = map(str, location[:2])
    fields = {name: list(field.annotation.model_fields) for name, field in Recipe.model_fields.items()}
    elsewhere = [f"{name}.{key}" for name, keys in fields.items() if key in keys]
    return f"; did you mean {elsewhere[0]}?" if elsewhere else _guess(key, fields[section])


def _guess(word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
