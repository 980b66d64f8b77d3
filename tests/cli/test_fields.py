"""Sentences about arguments become sentences about options."""

from __future__ import annotations

import pytest

from scedit_cli.cli.fields import as_options, in_options
from scedit_cli.utils.errors import SceditError


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("`up_blocks` is of no use", "--up-blocks is of no use"),
        ("`conditions=KIND=FOLDER` names it", "--cond KIND=FOLDER names it"),
        ("or add `overwrite=True`", "or add --overwrite"),
        ("`train.steps=200`, as `data.path=a b`", "--set train.steps=200, as --set data.path=a b"),
        ("`annotate(a, b/c, kinds=canny, overwrite=True)`", "scedit annotate a, b/c --cond canny --overwrite"),
        ("`prepare(PHOTOS, out=DIR)`", "scedit prepare PHOTOS --out DIR"),
        ("`prepare(out=DIR)` with `cache`", "scedit prepare --out DIR with --cache"),
        ("`hf auth login` and base.vae", "`hf auth login` and base.vae"),
    ],
)
def test_arguments_become_options(said, shown):
    assert in_options(said, {"conditions": "--cond"}) == shown
    assert in_options({"a": [said, 1], "b": None}, {"conditions": "--cond"}) == {"a": [shown, 1], "b": None}


def test_an_error_keeps_what_it_is():
    with pytest.raises(SceditError) as caught, as_options():
        raise SceditError("`size` is 7", "leave `size` out", "size")
    assert (caught.value.message, caught.value.hint, caught.value.field) == ("--size is 7", "leave --size out", "size")
    assert str(caught.value) == "--size is 7 (leave --size out)"
