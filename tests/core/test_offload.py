"""An offloaded encoder computes the same, and no more of it is on the device than the unit at work and the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from scedit_cli.core.attach import attach
from scedit_cli.core.offload import offloaded
from scedit_cli.core.tuners import CSCTuner
from scedit_cli.models.quantization import quantize
from tests import tiny

CPU = torch.device("cpu")


def encoder(unet: nn.Module) -> list[nn.Module]:
    return [*unet.down_blocks, *([unet.mid_block] if unet.mid_block is not None else [])]


def held(modules: list[nn.Module]) -> int:
    """The bytes of the weights that have elements now."""
    return sum(each.nbytes for module in modules for each in (*module.parameters(), *module.buffers()))


def places(modules: list[nn.Module]) -> list[tuple[dict[str, Tensor | None], str]]:
    """Where the weights are looked up, so that counting them often is quick."""
    inner = [each for module in modules for each in module.modules()]
    return [(kind, name) for each in inner for kind in (each._parameters, each._buffers) for name in kind]


@contextmanager
def watched(unet: nn.Module) -> Iterator[list[tuple[str, int]]]:
    """Lists (layer, the encoder's bytes on the device) at each call of a layer, and at each gradient."""
    seen: list[tuple[str, int]] = []
    weights, hooks = places(encoder(unet)), []

    def look(name: str) -> None:
        seen.append((name, sum(each.nbytes for kind, key in weights if (each := kind[key]) is not None)))

    for name, layer in unet.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.GroupNorm):
            hooks.append(layer.register_forward_hook(lambda *_, name=name: look(name)))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def step(unet: nn.Module, tuner: CSCTuner, memory: str, family: str, device: torch.device = CPU) -> list[Tensor]:
    """A step's output and gradients."""
    tuner.zero_grad()
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator).to(device)

    sample, hint = normal(4, 8, 8), normal(3, 64, 64)
    text = {"encoder_hidden_states": normal(5, unet.config.cross_attention_dim)}
    if family == "sdxl":
        pooled = normal(tiny.SECOND_WIDTH)
        text["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.ones(1, 6, device=device)}
    with attach(unet, tuner, memory=memory) as edits:
        edits.set_hints([hint])
        output = unet(sample, 500, **text).sample
        output.square().mean().backward()
    return [output.detach(), *(weight.grad.clone() for weight in tuner.parameters())]


@pytest.mark.parametrize(
    ("family", "memory", "how"), [("sd15", "plain", "none"), ("sd15", "checkpoint", "int4"), ("sdxl", "lean", "none")]
)
def test_a_step_is_the_same_and_the_encoder_visits_in_units(family, memory, how):
    unet = tiny.unet(family).requires_grad_(False)
    if how != "none":
        pytest.importorskip("torchao")
        quantize(unet, how)
    tuner = tiny.trained(CSCTuner.for_unet(unet, "canny", hint_channels=16))
    expected = step(unet, tuner, memory, family)
    whole = held(encoder(unet))
    with offloaded(unet, CPU) as offload:
        assert offload.size == whole and held(encoder(unet)) == 0
        sizes = [sum(slot.host.nbytes for slot in offload._slots[unit]) for unit in offload.units]
        names = {id(unit): name for name, unit in unet.named_modules()}
        units = [names[id(unit)] for unit in offload.units]
        for _ in range(2):  # the order of units is known from the second pass on
            with watched(unet) as seen:
                found = step(unet, tuner, memory, family)
            assert all(map(torch.equal, found, expected))
        assert held(encoder(unet)) == 0
    two = max(one + other for one, other in zip(sizes, [*sizes[1:], 0], strict=True))
    inside = [size for name, size in seen if any(f"{name}.".startswith(f"{unit}.") for unit in units)]
    outside = [size for name, size in seen if not any(f"{name}.".startswith(f"{unit}.") for unit in units)]
    assert max(inside) <= two < whole and min(inside) > 0, "the unit at work and the next"
    assert max(outside) == 0, "none while the decoder computes"
    assert held(encoder(unet)) == whole and all(map(torch.equal, step(unet, tuner, memory, family), expected))


def test_a_weight_that_is_away_cannot_be_used():
    unet = tiny.unet("sd15").requires_grad_(False)
    with offloaded(unet, CPU), pytest.raises(RuntimeError):
        unet.mid_block.resnets[0].conv1.forward(torch.randn(1, 32, 1, 1))


def test_an_interrupted_pass_leaves_nothing_behind():
    unet = tiny.unet("sd15").requires_grad_(False)
    sample, context = torch.randn(1, 4, 8, 8), torch.randn(1, 5, tiny.TEXT_WIDTH)
    expected = unet(sample, 500, context).sample
    with offloaded(unet, CPU):
        with pytest.raises(RuntimeError):
            unet(sample, 500, torch.randn(1, 5, 3))  # texts of another width
        assert torch.equal(unet(sample, 500, context).sample, expected)
        assert held(encoder(unet)) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_on_a_card_weights_come_from_pinned_memory_on_a_stream_of_their_own(home):
    card = torch.device("cuda")
    unet = tiny.unet("sd15").requires_grad_(False).to(card)
    tuner = tiny.trained(CSCTuner.for_unet(unet, "canny", hint_channels=16)).to(card)
    expected = step(unet, tuner, "lean", "sd15", card)
    whole = held(encoder(unet))
    for block in encoder(unet):
        block.to(home)
    before = torch.cuda.memory_allocated()
    with offloaded(unet, card) as offload:
        assert all(slot.host.is_pinned() for slots in offload._slots.values() for slot in slots)
        assert home == "cpu" or torch.cuda.memory_allocated() <= before - whole
        for _ in range(4):
            for one, other in zip(step(unet, tuner, "lean", "sd15", card), expected, strict=True):
                torch.testing.assert_close(one, other)
        assert held(encoder(unet)) == 0
    assert {weight.device.type for weight in unet.parameters()} == {"cuda"}
