"""Every field of a recipe has its effect on what a run leaves: the tuner, the log, the files, the grids."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from scedit_cli.core.bundle import tuners_of
from scedit_cli.data.cache import cache_latents_and_text
from scedit_cli.data.dataset import open_dataset
from scedit_cli.recipe import Recipe
from scedit_cli.training.metrics import HeldOutScores
from tests import by_recipe
from tests.jobs.train.outcomes import HUB_BASE, PICTURES, PLAIN, Outcome, Runs

Effect = Callable[[Outcome, Outcome], None]  # asserts what a run without the field's value and one with it differ in
RATE = PLAIN["train.learning_rate"]


@dataclass(frozen=True)
class Case:
    """A value other than the default for a field, and its effect.

    Attributes:
        given: further keys of both runs, without which the field does nothing.
        along: keys that change together with it.
    """

    value: Any
    effect: Effect
    given: dict[str, Any] = field(default_factory=dict)
    along: dict[str, Any] = field(default_factory=dict)


def same(one: Outcome, other: Outcome) -> bool:
    return one.weights.keys() == other.weights.keys() and all(
        torch.equal(value, other.weights[name]) for name, value in one.weights.items()
    )


def other_weights(plain: Outcome, changed: Outcome) -> None:
    """A tuner of the same shape that has learned something else."""
    assert {name: value.shape for name, value in plain.weights.items()} == {
        name: value.shape for name, value in changed.weights.items()
    }
    assert not same(plain, changed)


def other_loss(plain: Outcome, changed: Outcome) -> None:
    """A loss that differs from the first step on, and so do the weights."""
    assert plain.log[0]["loss"] != changed.log[0]["loss"]
    other_weights(plain, changed)


def same_lesson(plain: Outcome, changed: Outcome) -> None:
    """The same weights but for rounding."""
    for name, value in plain.weights.items():
        torch.testing.assert_close(changed.weights[name], value, rtol=1e-3, atol=1e-4)


def tells(of: Callable[[Outcome], Any], before: Any, after: Any) -> Effect:
    """What `of` tells of a run is `before` without the value and `after` with it."""

    def effect(plain: Outcome, changed: Outcome) -> None:
        assert (of(plain), of(changed)) == (before, after)

    return effect


def both(*effects: Effect) -> Effect:
    def effect(plain: Outcome, changed: Outcome) -> None:
        for each in effects:
            each(plain, changed)

    return effect


def refused(sentence: str) -> Effect:
    def effect(plain: Outcome, changed: Outcome) -> None:
        assert plain.error is None and sentence in changed.error.message

    return effect


def rates(*factors: float) -> Callable[[Outcome, Outcome], None]:
    """The learning rates of the steps, as shares of the usual one."""

    def effect(plain: Outcome, changed: Outcome) -> None:
        wanted = pytest.approx([RATE * factor for factor in factors], rel=1e-4)
        assert changed.logged("learning_rate") == wanted != plain.logged("learning_rate")
        other_weights(plain, changed)

    return effect


def less_memory(plain: Outcome, changed: Outcome) -> None:
    """The same weights, with fewer bytes held for the backward pass."""
    same_lesson(plain, changed)
    held = []
    for each in (plain, changed):
        cache = cache_latents_and_text(open_dataset(each.recipe.data.path), each.base, ["canny"])
        held.append(by_recipe.forecast(each.recipe, each.base, cache).peak["activations"])
    assert held[1] < held[0]


def compiled(plain: Outcome, changed: Outcome) -> None:
    same_lesson(plain, changed)
    assert plain.graphs == 0 < changed.graphs


def averaged(plain: Outcome, changed: Outcome) -> None:
    """Weights on the way to those that were trained, and near them: what began at zero is most of what it became."""
    other_weights(plain, changed)
    learned = [
        torch.cat([value.flatten() for name, value in each.weights.items() if ".up." in name]).norm()
        for each in (plain, changed)
    ]
    assert 0.7 < learned[1] / learned[0] < 1


def other_grid(plain: Outcome, changed: Outcome) -> None:
    """The same tuner, shown otherwise."""
    assert same(plain, changed) and plain.grids == changed.grids
    assert plain.grid().size == changed.grid().size
    assert not np.array_equal(plain.grid(), changed.grid())


def taller_grid(plain: Outcome, changed: Outcome) -> None:
    assert same(plain, changed) and 1.5 < changed.grid().height / plain.grid().height < 2


def other_validation(plain: Outcome, changed: Outcome) -> None:
    (before,), (after,) = plain.logged("validation_loss"), changed.logged("validation_loss")
    assert before != after and math.isfinite(after)


def in_other_shapes(name: str, value: Any) -> Effect:
    """The file holds a tuner of this size."""

    def effect(plain: Outcome, changed: Outcome) -> None:
        assert getattr(plain.tuner, name) != getattr(changed.tuner, name) == value
        assert {k: v.shape for k, v in plain.weights.items()} != {k: v.shape for k, v in changed.weights.items()}

    return effect


def metadata(name: str) -> Callable[[Outcome], str | None]:
    return lambda outcome: outcome.tuner.metadata.get(name)


def learned_from(outcome: Outcome) -> str:
    """What the run has said about its data."""
    return next(note for note in outcome.notes if note.startswith("data: "))


def tracked(outcome: Outcome, project: str) -> bool:
    return any(name.startswith(f"tensorboard/{project}/") for name in outcome.files)


MADE = {"data.path": "{blank}", "data.make": ["canny"]}
SHARDS = {"data.path": "{shards}"}
EMBEDDED = {
    "base.model": "scenes", "data.path": None, "data.scenes": 2, "train.steps": 1, "train.batch_size": 1,
    "score.scenes": 0,
}  # fmt: skip
GRIDS = {"samples.every": 2, "samples.count": 1, "samples.steps": 1}
HELD_OUT = {"validation.pictures": 2}
HELD_OUT_DRAWN = HELD_OUT | {"samples.steps": 1, "validation.every": 1}
FALLING = HELD_OUT_DRAWN | {"validation.metrics": True}  # the scores that `_quick` gives fall
LOGIT, SHIFTED = {"train.timesteps": "logit-normal"}, {"train.timesteps": "shifted"}
SC = {"tuner.condition": None, "tuner.hint_channels": None, "tuner.hint_width": None}

CASES = {
    "base.model": Case("{other}", both(other_loss, tells(lambda run: metadata("base")(run)[-5:], "/base", "other"))),
    "base.revision": Case(
        "v2",
        both(other_loss, tells(metadata("base_revision"), "commit-of-main", "commit-of-v2")),
        {"base.model": HUB_BASE},
    ),
    "base.vae": Case("{other}", other_loss),
    "base.vae_revision": Case(
        "v2",
        both(other_loss, tells(metadata("base_vae_revision"), "commit-of-main", "commit-of-v2")),
        {"base.vae": HUB_BASE},
    ),
    "base.prediction": Case("epsilon", both(other_loss, tells(metadata("prediction_type"), "v_prediction", "epsilon"))),
    "base.quantize": Case("int8", other_loss),
    "tuner.kind": Case("sc", tells(lambda run: run.tuner.kind, "csc", "sc"), along=SC),
    "tuner.condition": Case("color", both(other_weights, tells(lambda run: run.tuner.condition, "canny", "color"))),
    "tuner.conditions": Case(
        ["canny", "color"],
        tells(lambda run: [each.condition for each in tuners_of(run.tuner)], ["canny"], ["canny", "color"]),
        along={"tuner.condition": None},
    ),
    "tuner.down_ratio": Case(0.5, in_other_shapes("hidden", (4, 4, 4, 8))),
    "tuner.hint_kernel": Case(3, in_other_shapes("hint_kernel", 3)),
    "tuner.hint_channels": Case(24, in_other_shapes("hint_channels", 24)),
    "tuner.hint_width": Case(0.5, in_other_shapes("hint_widths", (8, 16, 48))),
    "tuner.weights": Case("{trained}", other_loss),
    "data.path": Case("{more}", other_loss),
    "data.scenes": Case(3, tells(learned_from, "data: 2 images", "data: 3 images"), EMBEDDED),
    "data.seed": Case(7, other_loss, EMBEDDED),
    "data.look": Case("pastel", other_loss, EMBEDDED),
    "data.caption_dropout": Case(1.0, other_loss),
    "data.hint_dropout": Case(1.0, other_weights),
    "data.make": Case(["canny"], other_weights, {"data.path": "{blank}"}),
    "data.params": Case(["low=1", "high=2"], other_weights, MADE),
    "data.masked_loss": Case(True, other_loss, {"data.path": "{masked}"}),
    "data.size": Case([32, 32], both(other_loss, tells(metadata("modelspec.resolution"), "64x64", "32x32")), SHARDS),
    "data.columns": Case(["canny=edge.png"], other_weights, {"data.path": "{named}"}),
    "data.upscale": Case(
        True,
        lambda plain, changed: refused("none of the 6 samples can be used")(changed, plain),
        SHARDS | {"data.size": [128, 128]},
    ),
    "data.shuffle": Case(0, other_loss, SHARDS),
    "data.unusable": Case(
        0.0, refused("samples cannot be used"), {"data.path": "{torn}", "train.batch_size": PICTURES}
    ),
    "data.workers": Case(1, both(same_lesson, tells(lambda run: run.threads, 2, 1)), SHARDS),
    "train.steps": Case(3, both(other_weights, tells(lambda run: run.logged("step"), [1, 2], [1, 2, 3]))),
    "train.batch_size": Case(3, both(other_loss, tells(lambda run: run.seen, {2: 2}, {3: 2}))),
    "train.micro_batch_size": Case(1, both(same_lesson, tells(lambda run: run.seen, {2: 2}, {1: 4}))),
    "train.optimizer": Case("adafactor", other_weights),
    "train.optimizer_options": Case({"eps": 1.0}, other_weights),
    "train.learning_rate": Case(
        RATE / 2, both(other_weights, tells(lambda run: run.logged("learning_rate"), [RATE] * 2, [RATE / 2] * 2))
    ),
    "train.weight_decay": Case(1.0, other_weights),
    "train.warmup": Case(3, rates(0.25, 0.5)),
    "train.schedule": Case("linear", rates(1.0, 0.5)),
    "train.schedule_cycles": Case(2, rates(1.0, 1.0), {"train.schedule": "cosine-restarts"}),
    "train.schedule_power": Case(2.0, rates(1.0, 0.25), {"train.schedule": "polynomial"}),
    "train.seed": Case(5, other_loss),
    "train.precision": Case("bf16", other_loss),
    "train.memory": Case("checkpoint", less_memory, {"train.memory": "plain"}),
    "train.recompute": Case("fine", less_memory, {"train.memory": "checkpoint", "train.recompute": "transformer"}),
    "train.offload": Case("encoder", refused("no accelerator to offload from")),
    "train.tf32": Case(False, both(same_lesson, tells(lambda run: run.settings[0], "tf32", "ieee"))),
    "train.channels_last": Case(False, both(same_lesson, tells(lambda run: run.settings[1], True, False))),
    "train.compile": Case(True, compiled),
    "train.prediction": Case("sample", both(other_loss, tells(metadata("prediction_type"), "v_prediction", "sample"))),
    "train.zero_terminal_snr": Case(True, both(other_loss, tells(metadata("zero_terminal_snr"), None, "true"))),
    "train.loss_weighting": Case("min-snr", other_loss),
    "train.snr_gamma": Case(0.5, other_loss, {"train.loss_weighting": "min-snr"}),
    "train.noise_offset": Case(0.5, other_loss),
    "train.input_perturbation": Case(0.5, other_loss),
    "train.timesteps": Case("logit-normal", other_loss),
    "train.timestep_range": Case([0.9, 1.0], other_loss),
    "train.timestep_mean": Case(2.0, other_loss, LOGIT),
    "train.timestep_deviation": Case(0.1, other_loss, LOGIT),
    "train.timestep_shift": Case(9.0, other_loss, SHIFTED),
    "train.max_grad_norm": Case(
        0.0,
        both(other_weights, tells(lambda run: len(run.logged("gradient_norm")), 2, 0)),
        {"train.max_grad_norm": 1e-6},
    ),
    "train.max_skipped": Case(
        1, refused("2 steps in a row were skipped"), {"train.precision": "fp16", "data.path": "{heavy}"}
    ),
    "train.ema_decay": Case(0.9999, averaged, {"train.steps": 4}),
    "train.checkpoint_every": Case(1, tells(lambda run: len(run.checkpoints), 1, 2)),
    "train.log_every": Case(2, both(same_lesson, tells(lambda run: run.logged("step"), [1, 2], [2]))),
    "checkpoints.best": Case(True, tells(lambda run: "best.safetensors" in run.files, False, True), FALLING),
    "checkpoints.keep": Case(1, tells(lambda run: len(run.checkpoints), 2, 1), {"train.checkpoint_every": 1}),
    "samples.every": Case(1, tells(lambda run: len(run.grids), 1, 2), GRIDS),
    "samples.count": Case(2, taller_grid, GRIDS),
    "samples.seed": Case(5, other_grid, GRIDS),
    "samples.steps": Case(2, other_grid, GRIDS),
    "samples.guidance": Case(9.0, other_grid, GRIDS),
    "samples.control_guidance": Case(4.0, other_grid, GRIDS),
    "samples.score": Case(False, tells(lambda run: "samples/scores.jsonl" in run.files, True, False), GRIDS),
    "samples.prompts": Case(["a blue cone"], other_grid, GRIDS),
    "validation.pictures": Case(2, both(other_weights, tells(lambda run: len(run.logged("validation_loss")), 0, 1))),
    "validation.every": Case(1, tells(lambda run: len(run.logged("validation_loss")), 1, 2), HELD_OUT),
    "validation.timesteps": Case(3, other_validation, HELD_OUT),
    "validation.seed": Case(6, other_validation, HELD_OUT),
    "validation.metrics": Case(True, tells(lambda run: "validation.jsonl" in run.files, False, True), HELD_OUT_DRAWN),
    "validation.patience": Case(1, tells(lambda run: run.result.steps, 3, 2), FALLING | {"train.steps": 3}),
    "tracking.to": Case(["tensorboard"], tells(lambda run: tracked(run, "scedit"), False, True)),
    "tracking.project": Case(
        "mine", tells(lambda run: tracked(run, "mine"), False, True), {"tracking.to": ["tensorboard"]}
    ),
    "score.scenes": Case(
        1, tells(lambda run: [each.scenes for each in run.result.scores.values()], [], [1]), EMBEDDED
    ),
}  # fmt: skip
NEEDS = {"base.quantize": "torchao", "tracking.to": "tensorboard", "tracking.project": "tensorboard"}
FIELDS = [f"{name}.{key}" for name, section in Recipe.model_fields.items() for key in section.annotation.model_fields]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("every-field"))


@pytest.fixture(autouse=True)
def _quick(runs, monkeypatch):
    """A hub in a folder; graphs are captured, not made machine code."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", runs.places["hub"])
    monkeypatch.setenv("SCEDIT_CACHE", runs.places["data"] + "-cache")
    falling = {"score": 0.5, "score_low": None, "score_high": None}
    monkeypatch.setattr(
        HeldOutScores,
        "measure",
        lambda self, trainer, reporter: {
            "step": trainer.step, "control_score": 1 / trainer.step, "conditions": {"canny": falling}
        },
    )
    compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile(module, backend="eager"))


@pytest.mark.parametrize("key", FIELDS)
def test_a_field_has_its_effect(runs, key):
    assert key in CASES, f"{key} has no case: say what another value than its default changes"
    if key in NEEDS:
        pytest.importorskip(NEEDS[key])
    case = CASES[key]
    plain, changed = {**case.given}, {**case.given, key: case.value, **case.along}
    section, name = key.split(".")
    values = [getattr(getattr(runs.recipe(each), section), name) for each in (plain, changed)]
    assert values[0] != values[1]
    case.effect(runs(plain), runs(changed))


def test_cases_are_of_fields_that_there_are():
    assert set(CASES) <= set(FIELDS)
