"""Memory that no tensor of a training step takes."""

from __future__ import annotations

import platform

import pytest
import torch

from scedit_cli.utils.process_memory import resident, resident_at_rest, workspaces

CARD = torch.device("cuda")


@pytest.mark.parametrize(
    ("capability", "setting", "bytes_"),
    [
        ((8, 6), None, 2 * 8320 * 2**10),
        ((9, 0), None, 2 * 32 * 2**20),
        ((12, 0), None, 2 * 32 * 2**20),
        ((9, 0), ":4096:2:16:8", 2 * 8320 * 2**10),
        ((8, 0), ":16:8", 2 * 128 * 2**10),
    ],
)
def test_both_threads_of_a_step_have_a_workspace(monkeypatch, capability, setting, bytes_):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if setting:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", setting)
    assert workspaces(CARD) == bytes_


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc_trim")
def test_free_memory_is_not_at_rest():
    used = [bytearray(2**16) for _ in range(2**10)]
    last = used.pop()  # keeps the heap from shrinking by itself
    used.clear()
    before = resident()
    assert resident_at_rest() < before - 2**25
    assert len(last) == 2**16


def test_a_cpu_has_none():
    assert workspaces(torch.device("cpu")) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
def test_a_step_leaves_them_on_the_card():
    torch._C._cuda_clearCublasWorkspaces()
    before = torch.cuda.memory_allocated()
    weight = torch.randn(256, 256, device=CARD, dtype=torch.bfloat16, requires_grad=True)
    (weight @ weight).sum().backward()
    torch.cuda.synchronize()
    del weight
    assert torch.cuda.memory_allocated() - before == workspaces(CARD)
