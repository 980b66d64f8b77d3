"""Recipes by hands that slip: each is shown, or refused by its field with exit code 2 and never a traceback."""

from __future__ import annotations

import io
import math
import random
import re
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import tomlkit
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st
from typer.main import get_command

from scedit_cli.cli import app
from scedit_cli.recipe import Recipe, builtin_recipes, load_recipe
from tests.faults.box import faults, try_each
from tests.faults.mutations import NASTY, TEXTS, changed, damaged

SECONDS = 5.0
MUTATED, DRAWN = 2000, 600
SECTIONS = {name: field.annotation for name, field in Recipe.model_fields.items()}
FIELDS = {f"{name}.{key}": field for name, section in SECTIONS.items() for key, field in section.model_fields.items()}
SANE = {"tuner": {"kind": "csc", "condition": "canny"}}


@cache
def program():
    """The program, built once: the runner of the tests would build it again for every call."""
    return get_command(app)


def shown(text: str | bytes, *options: str, folder: Path) -> str:
    """`scedit train --show` of a recipe of that text: "fine", or its sentence once it is seen to be one."""
    file = folder / "recipe.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        with pytest.raises(SystemExit) as ended:
            program().main(["train", "--recipe", str(file), "--show", *options])
    printed, said = out.getvalue(), err.getvalue()
    if ended.value.code == 0:
        Recipe.from_dict(tomllib.loads(printed))
        return "fine"
    first, *others = said.splitlines()
    assert ended.value.code == 2 and not printed and "Traceback" not in said, said[-500:]
    assert first.startswith("error: ") and others[-1].startswith("hint: "), said[-500:]
    assert not first.startswith("error: unexpected") and max(map(len, [first, *others])) < 600, said[:600]
    assert said.replace("\n", "").isprintable(), repr(said[:300])
    return said


def is_placed(said: str) -> bool:
    """Whether each mistake is told by its field or section, one in the TOML by its place."""
    first, *others = said.splitlines()[:-1]
    told = first.partition("recipe.toml")[2]
    if told.startswith(" is not valid TOML: "):
        return re.search(r"\b(line|position) \d|end of document", told) is not None
    mistakes = [told.removeprefix(": "), *others][told.endswith(" mistakes:") :]
    return all(re.match(rf"\s*({'|'.join((*SECTIONS, 'extends'))})[.:]|.*: unknown", each) for each in mistakes)


def bounds() -> Iterator[tuple[str, Any, bool]]:
    """(field, value, whether it is allowed): every bound of the schema, at it and beyond it, and every kind of value
    that a field does not take."""
    for key, field in FIELDS.items():
        kind, metadata = field.annotation, [*field.metadata, *_inner(field.annotation)]
        is_real = float in _kinds(kind)
        for rule in metadata:
            for name, sign, is_in in (("ge", -1, True), ("gt", 1, False), ("le", 1, True), ("lt", -1, False)):
                if (edge := getattr(rule, name, None)) is not None:
                    beyond = math.nextafter(edge, sign * math.inf) if is_real else edge + sign
                    yield key, _wrapped(field, float(edge) if is_real else edge), is_in
                    yield key, _wrapped(field, beyond), not is_in
            if (least := getattr(rule, "min_length", None)) is not None:
                yield key, "" if str in _kinds(kind) and not _is_list(kind) else [_one(key)] * (least - 1), False
            if (most := getattr(rule, "max_length", None)) is not None:
                yield key, [0.0] * (most + 1), False
            if getattr(rule, "pattern", None):
                for text in ("a", "a-1_b", "A", "1a", "a b", "ä", "a\n", "", "../a"):
                    yield key, _wrapped(field, text), text in ("a", "a-1_b")
        for choice in _choices(kind):
            yield key, _wrapped(field, choice), True
            yield key, _wrapped(field, f"{choice}x" if isinstance(choice, str) else choice + 1), False
        for value in ("text", 1, 1.5, True, ["text"], [1], {"a": 1}, []):
            if not _takes(kind, value):
                yield key, value, False


def _inner(kind: Any) -> list:
    """The rules for what a list holds."""
    rules = []
    for part in get_args(kind):
        rules += [rule for about in getattr(part, "__metadata__", ()) for rule in getattr(about, "metadata", ())]
        rules += _inner(part)
    return rules


def _kinds(kind: Any) -> set[type]:
    """The plain types in an annotation."""
    if isinstance(kind, type) and not get_args(kind):
        return {kind}
    if get_origin(kind) is Literal:
        return {type(choice) for choice in get_args(kind)}
    return set().union(*map(_kinds, get_args(kind))) if get_args(kind) else set()


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is list or any(_is_list(part) for part in get_args(kind) if get_origin(kind) is not Literal)


def _choices(kind: Any) -> tuple:
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(choice for part in get_args(kind) for choice in _choices(part))


def _wrapped(field: Any, value: Any) -> Any:
    if not _is_list(field.annotation):
        return value
    if isinstance(value, float):
        return [min(value, 0.0), max(value, 1.0)]
    return [value] * max((getattr(rule, "min_length", 1) for rule in field.metadata), default=1)


def _one(key: str) -> Any:
    return 0.5 if key == "train.timestep_range" else "text"


def _takes(kind: Any, value: Any) -> bool:
    if get_origin(kind) is dict:
        return isinstance(value, dict)
    if _is_list(kind):
        return isinstance(value, list) and all(_takes(str if str in _kinds(kind) else float, each) for each in value)
    if choices := _choices(kind):
        return value in choices  # Python's True is its 1, and pydantic lets it be
    return type(value) in _kinds(kind) or (type(value) is int and float in _kinds(kind))


# By hand, for a bound that is lost from the schema would only make fewer cases. Of lists: of what they hold.
BOUNDS = """
tuner.down_ratio (0, 8]
tuner.hint_channels [8, 4096]
tuner.hint_width (0, 8]
data.scenes [1, 1000000]
data.seed [0, 9223372036854775807]
data.caption_dropout [0, 1]
data.hint_dropout [0, 1]
data.size [8, 8192]
data.shuffle [0, 1000000]
data.unusable [0, 1]
data.workers [1, 256]
train.steps [1, 10000000]
train.batch_size [1, 65536]
train.micro_batch_size [0, 4096]
train.learning_rate (0, 1]
train.weight_decay [0, 1]
train.warmup [0, 1000000]
train.schedule_cycles [1, 1000]
train.schedule_power (0, 10]
train.seed [0, 9223372036854775807]
train.snr_gamma (0, 1000]
train.noise_offset [0, 1]
train.input_perturbation [0, 1]
train.timestep_range [0, 1]
train.timestep_mean [-10, 10]
train.timestep_deviation (0, 10]
train.timestep_shift (0, 100]
train.max_grad_norm [0, inf)
train.max_skipped [0, inf)
train.ema_decay [0, 1)
train.checkpoint_every [0, inf)
train.log_every [1, inf)
checkpoints.keep [1, 1000]
samples.every [0, inf)
samples.count [1, 64]
samples.seed [0, 9223372036854775807]
samples.steps [1, 1000]
samples.guidance [0, 100]
samples.control_guidance [1, 100]
validation.pictures [0, 1000000]
validation.every [1, inf)
validation.timesteps [1, 1000]
validation.seed [0, 9223372036854775807]
validation.patience [0, 1000000]
score.scenes [0, 100000]
"""
LENGTHS = {
    "base.model": "1..", "base.vae": "1..", "data.path": "1..", "data.size": "2..2", "train.timestep_range": "2..2",
    "tuner.weights": "1..", "samples.prompts": "1..", "tracking.project": "1..",
}  # fmt: skip


def test_the_schemas_bounds_are_those_that_were_meant() -> None:
    intervals, lengths = {}, {}
    for key, field in FIELDS.items():
        found = {}
        for rule in [*field.metadata, *_inner(field.annotation)]:
            found |= {name: getattr(rule, name) for name in ("ge", "gt", "le", "lt") if hasattr(rule, name)}
            if hasattr(rule, "min_length"):
                lengths[key] = f"{rule.min_length}.."
            if hasattr(rule, "max_length"):
                lengths[key] += str(rule.max_length)
        if found:
            low = f"[{found['ge']}" if "ge" in found else f"({found.get('gt', '-inf')}"
            high = f"{found['le']}]" if "le" in found else f"{found.get('lt', 'inf')})"
            intervals[key] = f"{low}, {high}"
    assert intervals == dict(line.split(" ", 1) for line in BOUNDS.split("\n") if line)
    assert lengths == LENGTHS


ALONE = {  # what a value needs beside it to be allowed, or why the schema refuses it with another
    "base.model": {"data": {"path": "x"}}, "base.vae_revision": {"base": {"vae": "x"}},
    "data.make": {}, "data.seed": {"data": {"path": "x"}}, "data.scenes": {},
    "data.masked_loss": {"data": {"path": "x"}}, "validation.patience": {"validation": {"metrics": True}},
    "samples.control_guidance": {"samples": {"guidance": 100.0}},
}  # fmt: skip


@pytest.mark.parametrize("key", FIELDS)
def test_every_bound_on_both_sides(key, tmp_path, tried) -> None:
    mine = [(value, allowed) for name, value, allowed in bounds() if name == key]
    assert mine
    for value, allowed in mine:
        section, name = key.split(".")
        values = {part: dict(content) for part, content in (SANE | ALONE.get(key, {})).items()}
        values["tuner"] = dict(SANE["tuner"])
        values.setdefault(section, {})[name] = value
        said = shown(tomlkit.dumps(values), folder=tmp_path)
        if allowed and said != "fine":  # refused for what does not go with it, never for itself
            reasons = 'leave it|give one of the two|; learn "|does not take|takes no hint|must be the smaller|take a smaller seed'
            assert re.search(rf"recipe.toml: [a-z]+\.[a-z_]+: .*({reasons})", said), said
        if not allowed:
            assert re.search(rf"{re.escape(key)}(\.\d+)?: ", said), (value, said)
    tried("recipe fields at and beyond their bounds", len(mine))


def test_mutated_recipes(tmp_path, tried) -> None:
    rng = random.Random(5)
    texts = [path.read_bytes() for path in builtin_recipes().values()]
    whole = [load_recipe(name).model_dump(exclude_none=True) for name in ("canny", "style", "sdxl-depth")]
    cases = []
    for number in range(MUTATED):
        if number % 2:
            cases.append(damaged(rng.choice(texts), rng))
        else:
            cases.append(_toml(changed(rng.choice(whole), rng)))

    def work(text: bytes) -> str:
        folder = tmp_path / str(random.random())
        folder.mkdir()
        said = shown(text, folder=folder)
        assert said == "fine" or is_placed(said), said
        return said

    outcomes = try_each(cases, work, SECONDS)
    tried("mutated recipes", len(outcomes))
    assert faults(outcomes, SECONDS) == ""
    assert 0 < sum(each.said == "fine" for each in outcomes) < len(outcomes)


def _toml(values: Any) -> bytes:
    """As TOML where it can be written as such, else nearly."""
    try:
        return tomlkit.dumps(values).encode("utf-8", "surrogatepass")
    except Exception:
        return repr(values)[:200_000].encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn")


KEYS = st.sampled_from([*FIELDS, "train", "nothing.here", "train.steps.deep", "=", "", "train.", ".steps", "a.b.c.d"])
VALUES = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.text(max_size=40), st.sampled_from(TEXTS),
    st.sampled_from([repr(each)[:3000] for each in NASTY]),
    st.lists(st.one_of(st.integers(), st.text(max_size=5), st.floats()), max_size=4),
).map(lambda value: value if isinstance(value, str) else str(value).lower())  # fmt: skip


@seed(1)
@settings(max_examples=DRAWN, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=3))
@example([("base.model", "x" * 100_000)])
@example([("base.revision", "\x80")])
def test_drawn_changes(folder, changes) -> None:
    options = [part for key, value in changes for part in ("--set", f"{key}={value}")]
    shown(tomlkit.dumps(SANE), *options, folder=folder)


def test_sections_that_are_none(tmp_path) -> None:
    for text in ("tuner = 3", "[[tuner]]\nkind = 'sc'", "[tuner.kind]\na = 1", "train = []\n[tuner]\nkind = 'sc'", ""):
        wrong = "train" if text.startswith("train") else "tuner"
        assert f"recipe.toml: {wrong}" in shown(text, folder=tmp_path)
