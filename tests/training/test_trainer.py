from __future__ import annotations

import copy
import os
import signal
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from scedit_cli.core.tuners import Tuner
from scedit_cli.data.hints import Hints
from scedit_cli.data.loader import load_batch
from scedit_cli.recipe import Recipe, TrainSection
from scedit_cli.training import objective, optimizers
from scedit_cli.training.checkpoints import newest_checkpoint, save_checkpoint
from scedit_cli.training.trainer import MASK, Trainer
from scedit_cli.utils.distributed import Processes
from scedit_cli.utils.errors import SceditError
from tests import by_recipe, tiny
from tests.training.conftest import BATCH

OPTIMIZERS = {
    "adamw": {"ema_decay": 0.5},
    "adafactor": {},
    "prodigy": {"learning_rate": 1.0, "optimizer_options": {"d0": 1e-3}},
    "schedule-free": {"warmup": 2},
}
LIBRARIES = {"prodigy": "prodigyopt", "schedule-free": "schedulefree"}


def weights_of(tuner: Tuner) -> list[torch.Tensor]:
    return [each.detach().clone() for each in tuner.state_dict().values()]


def ended(trainer: Trainer) -> list[torch.Tensor]:
    with trainer.finished() as tuner:
        return weights_of(tuner)


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_signal_between_weights_finds_whole_ones(make_trainer, monkeypatch):
    with make_trainer(ema_decay=0.5) as trainer:
        trainer.advance()
        before, load = weights_of(trainer.tuner), trainer.tuner.load_state_dict

        def loaded(state):
            signal.raise_signal(signal.SIGINT)  # before the first of them is there
            return load(state)

        monkeypatch.setattr(trainer.tuner, "load_state_dict", loaded)
        with pytest.raises(KeyboardInterrupt):
            ended(trainer)
        assert same(weights_of(trainer.tuner), before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_that_was_stopped_twice_ends_with_the_same_bits(name, make_trainer, tmp_path):
    """In the middle of an epoch, with accumulation, looked at in between; through the files."""
    pytest.importorskip(LIBRARIES.get(name, "torch"))
    options = {"optimizer": name, "micro_batch_size": 2, **OPTIMIZERS[name]}
    with make_trainer(**options) as whole:
        for _ in range(4):
            whole.advance()
        wanted = weights_of(whole.tuner), ended(whole)
    for stop in (1, 3, 4):
        with make_trainer(**options) as part:
            if stop > 1:
                part.restore(newest_checkpoint(tmp_path)[0])
            while part.step < stop:
                part.advance()
                ended(part)
            save_checkpoint(tmp_path, part.checkpoint())
    assert same(weights_of(part.tuner), wanted[0]) and same(ended(part), wanted[1])
    assert same(*wanted) == (name in ("adafactor", "prodigy")), "an average differs from what is trained"


@pytest.mark.parametrize("decay", [0.9999, 0.15])
def test_the_moving_average_warms_up(make_trainer, decay):
    """Added up by hand from the weights after each step: a high decay keeps what was learned, however few the steps."""
    options = {"steps": 12, "learning_rate": 0.003}
    with make_trainer(**options) as plain:
        fresh, after = weights_of(plain.tuner), []
        for _ in range(12):
            plain.advance()
            after.append(weights_of(plain.tuner))
    average = after[0]
    for n, weights in enumerate(after[1:], 1):
        kept = min(decay, (1 + n) / (10 + n))
        average = [kept * old + (1 - kept) * new for old, new in zip(average, weights, strict=True)]
    with make_trainer(ema_decay=decay, **options) as averaged:
        for _ in range(12):
            averaged.advance()
        assert same(weights_of(averaged.tuner), after[-1]), "what is trained knows nothing of the average"
        found = ended(averaged)
    for one, other in zip(found, average, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)

    def learned(weights: list[torch.Tensor]) -> float:
        return torch.cat([(one - other).flatten() for one, other in zip(weights, fresh, strict=True)]).norm().item()

    assert 0.5 < learned(found) / learned(after[-1]) < 1


def test_steps_that_fp16_skips_are_not_averaged(make_trainer, monkeypatch):
    original = objective.noise_prediction_loss
    with make_trainer(precision="fp16", ema_decay=0.9) as trainer:
        while trainer.advance().is_skipped:
            pass
        trainer.advance()
        before, steps = ended(trainer), trainer.average.optimization_step
        monkeypatch.setattr(objective, "noise_prediction_loss", lambda *args: original(*args) * float("inf"))
        assert trainer.advance().is_skipped and same(ended(trainer), before)
        assert trainer.average.optimization_step == steps


def test_an_average_without_warm_up_begins_again(make_trainer):
    """Of a checkpoint that another version has written: it held next to nothing of what was learned."""
    with make_trainer(ema_decay=0.9999) as trainer:
        trainer.advance()
        checkpoint = trainer.checkpoint()
    old = {f"module.{name}": torch.zeros_like(value) for name, value in checkpoint.tensors["tuner"].items()}
    state = {key: value for key, value in checkpoint.state.items() if key != "averaged"}
    tensors = checkpoint.tensors | {"average": old | {"n_averaged": torch.tensor(1)}}
    with make_trainer(ema_decay=0.9999) as other:
        other.restore(replace(checkpoint, tensors=tensors, state=state))
        assert same(ended(other), list(checkpoint.tensors["tuner"].values()))
        other.advance()
        torch.testing.assert_close(ended(other), weights_of(other.tuner), msg="its first step is all that it holds")


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_accumulation_changes_nothing_but_rounding(make_trainer, at_once):
    with make_trainer() as fresh:
        pass
    ends = []
    for size in (0, at_once):
        with make_trainer(batch_size=5, micro_batch_size=size, learning_rate=1e-4) as trainer:
            trainer.advance()
            trainer.advance()
            ends.append(weights_of(trainer.tuner))
    assert max((a - b).abs().max().item() for a, b in zip(*ends, strict=True)) < 1e-5
    assert not same(ends[1], weights_of(fresh.tuner))


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(SceditError, match="train.batch_size 2 cannot be shared by 3 processes"):
        Processes(0, 3).check_batch(2)


def test_weights_and_masks_weigh_the_loss(make_trainer, cache):
    black = {MASK: Hints([], (64, 64))}
    black[MASK]._held = torch.zeros(6, 3, 64, 64, dtype=torch.uint8)
    half = {MASK: Hints([], (64, 64))}
    half[MASK]._held = torch.cat([torch.zeros(6, 3, 64, 32), torch.full((6, 3, 64, 32), 255)], -1).byte()
    with make_trainer() as plain:
        step = plain.advance()
    with make_trainer(cache=replace(cache, weights=torch.arange(6.0))) as weighed:
        factors = torch.tensor(step.indices, dtype=torch.float)
        assert torch.allclose(weighed.advance().losses, step.losses * factors)
    masked = replace(cache, hints=cache.hints | black)
    with make_trainer(data={"masked_loss": True}, cache=masked) as trainer:
        assert not trainer.advance().losses.any()
    masked = replace(cache, hints=cache.hints | half)
    with make_trainer(data={"masked_loss": True}, cache=masked) as trainer:
        losses = trainer.advance().losses
    assert losses.all() and not torch.allclose(losses, step.losses)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_hints_are_dropped_at_each_step(make_trainer, monkeypatch, share):
    with make_trainer(data={"hint_dropout": share}) as trainer:
        seen = []
        monkeypatch.setattr(trainer.edits, "set_hints", lambda hints: seen.append(hints) or original(hints))
        original = type(trainer.edits).set_hints.__get__(trainer.edits)
        trainer.advance()
    assert seen[0]["canny"].any() == (share == 0.0)


def test_fp16_skips_what_is_not_finite(make_trainer, monkeypatch):
    original = objective.noise_prediction_loss
    with make_trainer(precision="fp16") as trainer:
        before = weights_of(trainer.tuner)
        monkeypatch.setattr(objective, "noise_prediction_loss", lambda *args: original(*args) * float("inf"))
        step = trainer.advance()
        assert step.is_skipped and trainer.step == 1 and same(weights_of(trainer.tuner), before)
        monkeypatch.undo()
        assert not all(trainer.advance().is_skipped for _ in range(20)), "the scale that fp16 begins with is halved"
        assert not same(weights_of(trainer.tuner), before)


@pytest.mark.parametrize("options", [{"momentum": 3.0}, {"betas": "a"}, {"betas": [0.9]}, {"eps": -1.0}])
def test_options_that_an_optimizer_does_not_take_are_refused(options):
    parameters = [torch.nn.Parameter(torch.ones(1))]
    with pytest.raises(SceditError, match="train.optimizer_options"):
        optimizers.make_optimizer(parameters, TrainSection(optimizer_options=options), torch.device("cpu"))


def test_options_reach_their_optimizer():
    parameters = [torch.nn.Parameter(torch.ones(1))]
    options = TrainSection(optimizer_options={"betas": [0.5, 0.6]}, weight_decay=0.25, learning_rate=0.125)
    (group,) = optimizers.make_optimizer(parameters, options, torch.device("cpu")).param_groups
    assert (list(group["betas"]), group["weight_decay"], group["lr"]) == ([0.5, 0.6], 0.25, 0.125)


def test_adamw_is_fused_unless_another_way_is_asked_for():
    parameters = [torch.nn.Parameter(torch.ones(1))]
    for options, fused in (({}, True), ({"foreach": True}, None), ({"differentiable": True}, None)):
        section = TrainSection(optimizer_options=options)
        (group,) = optimizers.make_optimizer(parameters, section, torch.device("cpu")).param_groups
        assert group["fused"] is fused


def test_an_optimizer_cannot_be_changed_on_the_way(make_trainer):
    with make_trainer() as trainer:
        checkpoint = trainer.checkpoint()
    with make_trainer(optimizer="adafactor") as other, pytest.raises(SceditError, match="train.optimizer is adamw"):
        other.restore(checkpoint)


def test_a_compiled_step_has_the_same_gradients(base, cache, dataset, monkeypatch):
    """By AOTAutograd's graphs alone; SCEDIT_INDUCTOR=1 compiles them too, which takes minutes on a CPU."""
    compiled, compile = [], torch.nn.Module.compile
    backend = "inductor" if os.environ.get("SCEDIT_INDUCTOR") else "aot_eager"
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda unet: (compiled.append(unet), compile(unet, backend=backend))
    )
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=tiny.TEXT_WIDTH,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type=None,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).requires_grad_(False)
    small = copy.copy(base)
    small._loaded = copy.copy(base._loaded)
    small._loaded.unet = unet
    batch, gradients = load_batch(cache, 0, list(range(BATCH))), []
    for wanted in (False, True):
        sections = {"tuner": {"kind": "csc", "condition": "canny", "hint_channels": 16}}
        train = {"batch_size": BATCH, "memory": "lean", "compile": wanted, "precision": "fp32"}
        recipe = Recipe.from_dict(sections | {"data": {"path": str(dataset.path)}, "train": train})
        tuner = by_recipe.fresh_tuner(recipe, small)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            for weight in tuner.parameters():
                torch.nn.init.normal_(weight, std=0.05)
        with Trainer(small, tuner, cache, recipe.train, recipe.data) as trainer:
            trainer.backward(batch)
        gradients.append([weight.grad for weight in tuner.parameters()])
    assert compiled == [unet] and unet._compiled_call_impl is None
    for plain, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())
