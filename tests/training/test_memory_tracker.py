from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from scedit_cli.training.memory_tracker import LiveStorages

MIB = 2**20


@pytest.fixture(params=["real", "fake"])
def one(request):
    """Makes a tensor of one MiB: one()."""
    if request.param == "real":
        yield lambda: torch.empty(MIB // 4)
        return
    with FakeTensorMode():
        yield lambda: torch.empty(MIB // 4)


def test_what_is_freed_counts_no_more(one):
    with LiveStorages() as live:
        a, b = one(), one()
        del a
        c = b + 1
        d = c * 2
    assert live.peak == 3 * MIB
    assert live.now["other"] == 3 * MIB
    del b, c, d
    assert live.now["other"] == 0


def test_views_and_in_place_operations_take_nothing(one):
    with LiveStorages() as live:
        a = one()
        views = [a.view(2, -1), a[::2], a.t(), a.detach()]
        a.add_(1)
        views[0].mul_(2)
        assert live.peak == MIB
        del a
        assert live.now["other"] == MIB
        del views
        assert live.now["other"] == 0


def test_a_storage_that_is_resized(one):
    with LiveStorages() as live:
        a = one()
        a.resize_(MIB)
        assert (live.peak, live.now["other"]) == (4 * MIB, 4 * MIB)


def test_what_autograd_saves_is_alive_until_the_backward_pass(one):
    with LiveStorages() as live:
        x = one().requires_grad_()
        y = torch.exp(torch.exp(x))
        assert live.now["other"] == 3 * MIB
        y.sum().backward()
        del y
        assert MIB * 2 <= live.now["other"] < MIB * 2 + 64  # x and its gradient


def test_categories(one):
    with LiveStorages() as live:
        weight = nn.Parameter(one())
        live.own("parameters", [weight])
        live.own_gradients([weight])
        with live.labelled("activations"):
            doubled = weight.exp() * 2
        assert live.at_peak == {"parameters": MIB, "activations": 2 * MIB}
        loss = doubled.sum()
        del doubled
        with live.labelled("transient"):
            loss.backward()
        assert (live.now["parameters"], live.now["gradients"]) == (MIB, MIB)
        before = live.peak
        live.forget_peak()
        assert live.peak < before


def test_tensors_from_before_are_counted_when_owned(one):
    a = one()
    with LiveStorages() as live:
        live.own("inputs", [a, a.view(2, -1)])
    assert live.at_peak == {"inputs": MIB}
