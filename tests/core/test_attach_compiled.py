"""Tuners that come and go while something is compiled: our U-Net, a twin of it, and modules that are not ours."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from scedit_cli.core.attach import attach
from scedit_cli.core.tuners import CSCTuner, SCTuner
from tests import tiny


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    with torch.no_grad():
        yield
    torch.compiler.reset()


class Counting:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        self.graphs += 1
        return graph


def compiled(module: nn.Module) -> tuple[nn.Module, Counting]:
    backend = Counting()
    return torch.compile(module, backend=backend), backend


def test_tuners_come_and_go_on_what_is_compiled(run, hint, trained):
    unet = tiny.one_block().eval()
    fast, _ = compiled(unet)
    bare = run(fast)
    for seed in (1, 2):
        with attach(unet, trained(CSCTuner.for_unet(unet, condition="canny", hint_channels=8), seed=seed)) as edits:
            edits.set_hints(hint())
            torch.testing.assert_close(run(fast), run(unet))
            edits.scales = [0.5]
            torch.testing.assert_close(run(fast), run(unet))
            assert not torch.allclose(run(fast), bare, atol=1e-3)
        torch.testing.assert_close(run(fast), bare)


def test_others_stay_compiled(run, trained):
    unet = tiny.one_block().eval()
    others = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()), tiny.one_block().eval()]
    (fast, backend), (other_unet, unet_backend) = map(compiled, others)
    (ours, _) = compiled(unet)

    def run_all() -> None:
        fast(torch.ones(2, 4))
        run(other_unet)

    run_all()
    before = backend.graphs, unet_backend.graphs
    for seed in (1, 2):
        with attach(unet, trained(SCTuner.for_unet(unet), seed=seed)):
            run(ours)
            run_all()
        run(ours)
        run_all()
    assert (backend.graphs, unet_backend.graphs) == before and before[0] == 1


def test_what_was_compiled_of_a_bare_twin_does_not_serve_an_attached_unet(run, trained):
    """Compiled code is shared between U-Nets of one shape, whichever was compiled first."""
    backend = Counting()
    unet = tiny.one_block().eval()
    twin = copy.deepcopy(unet)
    bare = run(torch.compile(twin, backend=backend))
    with attach(unet, trained(SCTuner.for_unet(unet))):
        edited = run(unet)
        torch.testing.assert_close(run(torch.compile(unet, backend=backend)), edited)
        torch.testing.assert_close(run(torch.compile(twin, backend=backend)), bare)
    assert not torch.allclose(edited, bare, atol=1e-3)


def test_one_graph_serves_tuners_of_one_shape(run, trained):
    unet = tiny.one_block().eval()
    backend, graphs = Counting(), Counter()
    for seed in (1, 2, 3):
        with attach(unet, trained(SCTuner.for_unet(unet), seed=seed)):
            torch.testing.assert_close(run(torch.compile(unet, backend=backend)), run(unet))
        graphs[backend.graphs] += 1
    assert len(graphs) == 1


def test_a_block_with_a_forward_of_its_own_keeps_it(run, trained):
    """As accelerate's hooks give it one; what was compiled goes then, since nothing tells it from the attached one."""
    unet = tiny.one_block().eval()
    [block, *_] = unet.up_blocks
    own = block.forward = block.forward
    fast, _ = compiled(unet)
    bare = run(fast)
    with attach(unet, trained(SCTuner.for_unet(unet))):
        torch.testing.assert_close(run(fast), run(unet))
        assert vars(block)["forward"] is own
    torch.testing.assert_close(run(fast), bare)
    assert vars(block)["forward"] is own


def test_blocks_are_what_they_were(run, trained):
    unet = tiny.one_block().eval()
    before = [dict(vars(block)) for block in unet.up_blocks]
    edits = attach(unet, trained(SCTuner.for_unet(unet)))
    edits.detach()
    unet.up_blocks[0].forward = own = unet.up_blocks[0].forward
    edits.detach()  # again is harmless, also to what has come since
    assert unet.up_blocks[0].forward is own
    del unet.up_blocks[0].forward
    assert [list(vars(block)) for block in unet.up_blocks] == [list(each) for each in before]


def test_what_came_around_a_block_meanwhile_stays(run, trained):
    """As accelerate's hooks may come while a tuner is attached."""
    unet = tiny.one_block().eval()
    [block, *_] = unet.up_blocks
    bare = run(unet)
    with attach(unet, trained(SCTuner.for_unet(unet))):
        inner = block.forward
        block.forward = own = lambda *args, **kwargs: inner(*args, **kwargs)
        assert not torch.allclose(run(unet), bare, atol=1e-3)
    assert vars(block)["forward"] is own
    torch.testing.assert_close(run(unet), bare)
