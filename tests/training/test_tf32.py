"""`train.tf32` beside PyTorch's two ways to set the same, whichever the caller has used and in whatever order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import backends

from scedit_cli.training.builders import tf32

_PLACES = {
    "all": backends, "products": backends.cuda.matmul, "cudnn": backends.cudnn, "convolutions": backends.cudnn.conv,
    "recurrences": backends.cudnn.rnn, "products on CPUs": backends.mkldnn.matmul,
}  # fmt: skip


def read(older: Callable[[], object]) -> object:
    try:
        return older()
    except RuntimeError:
        return "the two ways disagree"


def seen() -> dict[str, object]:
    newer = {name: place.fp32_precision for name, place in _PLACES.items()}
    return newer | {
        "older, products": read(lambda: backends.cuda.matmul.allow_tf32),
        "older, cudnn": read(lambda: backends.cudnn.allow_tf32),
        "older, precision": read(torch.get_float32_matmul_precision),
    }


def newer(name: str, value: str) -> None:
    _PLACES[name].fp32_precision = value


@pytest.fixture(autouse=True)
def as_pytorch_begins() -> Iterator[None]:
    def reset() -> None:
        for name in _PLACES:
            newer(name, "none")
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = True
        newer("products", "none")
        newer("products on CPUs", "none")

    reset()
    yield
    reset()


SET = {
    "nothing": lambda: None,
    "older products": lambda: setattr(backends.cuda.matmul, "allow_tf32", True),
    "older convolutions": lambda: setattr(backends.cudnn, "allow_tf32", False),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "newer, everything tf32": lambda: newer("all", "tf32"),
    "newer, everything ieee": lambda: newer("all", "ieee"),
    "newer products": lambda: newer("products", "tf32"),
    "newer convolutions": lambda: newer("convolutions", "ieee"),
    "newer cudnn": lambda: newer("cudnn", "ieee"),
    "older, then newer": lambda: (torch.set_float32_matmul_precision("high"), newer("products", "ieee")),
    "newer, then older": lambda: (newer("products", "tf32"), torch.set_float32_matmul_precision("highest")),
}


@pytest.mark.parametrize("is_wanted", [True, False])
@pytest.mark.parametrize("set_before", SET)
def test_both_ways_are_what_they_were(set_before, is_wanted):
    SET[set_before]()
    before = seen()
    with pytest.raises(KeyError), tf32(is_wanted):
        inside = seen()
        raise KeyError
    effective = [inside[name] == "tf32" for name in ("products", "convolutions", "recurrences")]
    assert effective == [is_wanted] * 3
    assert inside["products on CPUs"] == before["products on CPUs"] or not is_wanted
    assert seen() == before
    agreed = [name for name in before if name.startswith("older") and before[name] != "the two ways disagree"]
    if len(agreed) == 3 and before["all"] == "none":
        assert not [name for name in agreed if inside[name] == "the two ways disagree"]


def test_a_wider_setting_is_still_followed_afterwards():
    newer("all", "tf32")
    for is_wanted in (False, True):
        with tf32(is_wanted):
            pass
    newer("all", "ieee")
    assert [seen()[name] for name in ("products", "convolutions", "recurrences")] == ["ieee"] * 3
