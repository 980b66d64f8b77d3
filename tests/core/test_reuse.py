"""Reuse of the deep layers, against a U-Net that runs them all and is given the earlier step's features."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scedit_cli.core.attach import attach
from scedit_cli.core.reuse import reuse
from scedit_cli.core.tuners import CSCTuner, SCTuner
from scedit_cli.utils.errors import SceditError
from tests import tiny

BATCH = 2


@pytest.fixture(params=("sd15", "sd21", "sdxl", "ssd1b", "lcm"))
def unet(request):
    return tiny.trained(tiny.unet(request.param), size=0.1).eval().requires_grad_(False)


@pytest.fixture
def tuners(unet):
    sc = tiny.trained(SCTuner.for_unet(unet))
    return [sc, tiny.trained(CSCTuner.for_unet(unet, condition="canny", hint_channels=16), seed=2)]


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hint(seed: int = 5, batch: int = BATCH, side: int = 128) -> torch.Tensor:
    return draw(seed, batch, 3, side, side).sigmoid()


@torch.no_grad()
def run(unet, step: int, batch: int = BATCH, side: int = 16) -> torch.Tensor:
    """Run the U-Net on the input of a denoising step."""
    config = unet.config
    text = {"encoder_hidden_states": draw(1, batch, 7, config.cross_attention_dim)}
    if config.addition_embed_type:
        ids = torch.tensor([[128.0, 128, 0, 0, 128, 128]] * batch)
        text["added_cond_kwargs"] = {"text_embeds": draw(2, batch, tiny.SECOND_WIDTH), "time_ids": ids}
    if config.time_cond_proj_dim:
        text["timestep_cond"] = draw(3, batch, config.time_cond_proj_dim)
    return unet(draw(10 + step, batch, 4, side, side), 900 - 40 * step, **text).sample


def expected(unet, steps: list[int], full: set[int], **size: int) -> list[torch.Tensor]:
    """Return the outputs of a U-Net that always runs every layer; at steps that are not `full`, its last up block is
    given the input of the last step that was."""
    outputs, kept = [], {}

    def replace(block, args, kwargs):
        if step in full:
            kept["hidden"] = kwargs["hidden_states"]
        return args, kwargs | {"hidden_states": kept["hidden"]}

    handle = unet.up_blocks[-1].register_forward_pre_hook(replace, with_kwargs=True)
    for step in steps:
        outputs.append(run(unet, step, **size))
    handle.remove()
    return outputs


def assert_equal(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [16, 12])
def test_the_deep_layers_run_at_every_third_step(unet, tuners, side):
    steps = list(range(5))
    with attach(unet, tuners, [0.7, 1.2]) as edits:
        edits.set_hints([hint(side=8 * side)])
        plain = [run(unet, step, side=side) for step in steps]
        wanted = expected(unet, steps, {0, 3}, side=side)
        with reuse(unet, 3) as deep:
            assert_equal([run(unet, step, side=side) for step in steps], wanted)
            assert (deep.full, deep.all) == (2, 5)
        assert not torch.allclose(wanted[1], plain[1], rtol=0, atol=1e-5)  # the features of another step are others
        assert_equal([run(unet, step, side=side) for step in steps], plain)


def test_a_reused_step_does_a_small_share_of_the_work(unet, tuners):
    def work(step: int) -> int:
        with FlopCounterMode(display=False) as counter:
            run(unet, step)
        return counter.get_total_flops()

    with attach(unet, tuners[0]), reuse(unet, 2):
        whole, part = work(0), work(1)
    assert part < 0.5 * whole


CHANGES = {
    "scales": lambda edits: setattr(edits, "scales", [0.7, 0.0]),
    "hints": lambda edits: edits.set_hints([hint(6)]),
    "regions": lambda edits: edits.set_regions([None, torch.zeros(1, 1, 128, 128)]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_tuners_makes_a_full_step(unet, tuners, change):
    with attach(unet, tuners) as edits:
        edits.set_hints([hint()])
        with reuse(unet, 3) as deep:
            run(unet, 0)
            CHANGES[change](edits)
            changed = run(unet, 1)
            reused = run(unet, 2)
            assert deep.full == 2
        assert torch.equal(changed, run(unet, 1))
        assert_equal([reused], expected(unet, [1, 2], {1})[1:])
        edits.set_hints([hint()])
        edits.set_regions(None)
        edits.scales = [1.0, 1.0]
        assert not torch.equal(changed, run(unet, 1))


def test_setting_the_same_scales_changes_nothing(unet, tuners):
    with attach(unet, tuners[0]) as edits, reuse(unet, 2) as deep:
        for step in range(4):
            edits.scales = [1.0]
            run(unet, step)
        assert deep.full == 2


def test_another_batch_makes_a_full_step_and_so_does_a_restart(unet):
    with reuse(unet, 4) as deep:
        run(unet, 0)
        half = run(unet, 1, batch=1)  # guidance that is switched off halves the batch
        deep.restart()
        first = run(unet, 2, batch=1)
        assert deep.full == 3
    assert torch.equal(half, run(unet, 1, batch=1)) and torch.equal(first, run(unet, 2, batch=1))


def test_both_calls_of_a_second_order_step_are_of_one_kind(unet):
    with reuse(unet, 2, calls_per_step=2) as deep:
        kinds = []
        for call in range(8):
            before = deep.full
            run(unet, call)
            kinds.append(deep.full - before)
    assert kinds == [1, 1, 0, 0, 1, 1, 0, 0]


def state(unet) -> list:
    return [(dict(m._forward_pre_hooks), dict(m._forward_hooks), "forward" in vars(m)) for m in unet.modules()]


@pytest.mark.parametrize("order", ["inside", "outside", "crossed"])
def test_undoing_leaves_the_unet_as_it_was(unet, tuners, order):
    before, plain = state(unet), run(unet, 0)
    deep = reuse(unet, 2) if order == "outside" else None
    edits = attach(unet, tuners[0])
    deep = deep or reuse(unet, 2)
    run(unet, 0)
    run(unet, 1)
    for undo in (edits.detach, deep.undo) if order != "inside" else (deep.undo, edits.detach):
        undo()
    deep.undo()
    assert state(unet) == before and torch.equal(run(unet, 0), plain)


def test_every_step_full_is_no_reuse_at_all(unet):
    before = state(unet)
    with reuse(unet, 1):
        assert state(unet) == before


def test_what_cannot_be_reused_is_told():
    unet = tiny.two_levels()
    with pytest.raises(SceditError, match="reuse is 0"):
        reuse(unet, 0)
    with reuse(unet, 2), pytest.raises(SceditError, match="already"):
        reuse(unet, 2)
    with pytest.raises(SceditError, match="no layers below"):
        reuse(tiny.one_block(), 2)
    unet.compile(backend="eager")
    with pytest.raises(SceditError, match="compiled"):
        reuse(unet, 2)
    reuse(unet, 1).undo()
