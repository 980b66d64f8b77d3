from __future__ import annotations

import pytest
import torch
from torch import nn

from scedit_cli.core.precision import norms_in_own_precision


class Lifting(torch.overrides.TorchFunctionMode):
    """Does with norms under a CPU's autocast what CUDA's does."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        lift = func in (nn.functional.group_norm, nn.functional.layer_norm) and torch.is_autocast_enabled("cpu")
        args = [a.float() if lift and isinstance(a, torch.Tensor) else a for a in args]
        kwargs = {k: v.float() if lift and isinstance(v, torch.Tensor) else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


@pytest.mark.parametrize(("dtype", "output"), [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32)])
@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.LayerNorm(4)])
def test_only_half_precision_norms_leave_autocast(norm, dtype, output):
    norm, x = norm.to(dtype), torch.randn(3, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16), Lifting():
        assert norm(x).dtype == torch.float32
        with norms_in_own_precision(nn.Sequential(norm)):
            assert norm(x).dtype == output
            assert torch.is_autocast_enabled("cpu")
        assert norm(x).dtype == torch.float32
    assert not norm._forward_hooks and not norm._forward_pre_hooks


def test_autocast_is_back_after_an_error():
    norm = nn.GroupNorm(2, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16), norms_in_own_precision(norm):
        with pytest.raises(RuntimeError):
            norm(torch.randn(3, 5).bfloat16())
        assert torch.is_autocast_enabled("cpu")
