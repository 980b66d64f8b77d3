"""Tuners that were saved, or are given, with what torch.compile, DistributedDataParallel or peft wraps around them."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import scedit_cli as scedit
from scedit_cli.utils.errors import SceditError
from tests import tiny

WRAPPERS = ("module.", "_orig_mod.", "base_model.model.", "state_dict.", "_orig_mod.module.")


class Parallel(nn.Module):
    """Keeps the tuner where DistributedDataParallel does."""

    def __init__(self, tuner: nn.Module) -> None:
        super().__init__()
        self.module = tuner


@pytest.fixture
def unet():
    return tiny.unet("sd15")


def assert_same(tuner, other):
    expected = tuner.state_dict()
    found = other.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


# sd-scripts#1024, minimind#594, eole#179: names with the wrapper before them.
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("format", ["scedit", "scepter", "ms-swift", "scedit-pytorch"])
def test_names_with_a_wrapper_before_them_are_read(tmp_path, unet, format, wrapper):
    tuner = tiny.trained(scedit.SCTuner.for_unet(unet))
    file = scedit.save_tuner(tuner, tmp_path / "a.safetensors", format=format)
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    save_file({wrapper + key: value for key, value in load_file(file).items()}, tmp_path / "b.safetensors", header)
    assert_same(tuner, scedit.load_tuner(tmp_path / "b.safetensors"))


def test_a_wrapper_around_some_names_only_is_none(tmp_path, unet):
    file = scedit.save_tuner(scedit.SCTuner.for_unet(unet), tmp_path / "a.safetensors")
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    first, *others = load_file(file).items()
    mixed = {f"module.{first[0]}": first[1]} | dict(others)
    save_file(mixed, tmp_path / "b.safetensors", header)
    with pytest.raises(SceditError, match="does not fit its tuner"):
        scedit.load_tuner(tmp_path / "b.safetensors")


# pytorch#101107: a compiled module's names begin with _orig_mod.
@pytest.mark.parametrize("wrap", [torch.compile, Parallel, lambda tuner: Parallel(torch.compile(tuner))])
def test_a_wrapped_tuner_is_saved_as_itself(tmp_path, unet, wrap):
    tuner = tiny.trained(scedit.CSCTuner.for_unet(unet, condition="canny"))
    loaded = scedit.load_tuner(scedit.save_tuner(wrap(tuner), tmp_path / "a.safetensors"))
    assert loaded.condition == "canny"
    assert_same(tuner, loaded)


def test_what_is_no_tuner_is_not_saved(tmp_path):
    with pytest.raises(SceditError, match="Linear is no tuner"):
        scedit.save_tuner(nn.Linear(1, 1), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrap", [torch.compile, Parallel])
def test_a_wrapped_tuner_is_not_attached(unet, wrap):
    tuner = scedit.SCTuner.for_unet(unet)
    for given in (wrap(tuner), [wrap(tuner)]):
        with pytest.raises(SceditError, match="is no tuner") as told:
            scedit.attach(unet, given)
        assert "the tuner itself" in told.value.hint
    with scedit.attach(unet, nn.ModuleList([tuner])):
        pass
