"""`prepare`: options that would do nothing are refused."""

from __future__ import annotations

import pytest

from scedit_cli.utils.errors import SceditError
from tests.preparing import prepare

OF_SCENES = [("--seed", "seed", 3), ("--look", "look", "pastel"), ("--held-out", "held_out", True)]
OF_PICTURES = [
    ("--cond", "conditions", {"depth": "maps"}), ("--columns", "columns", {"text": "prompt"}),
    *((f"--{name}", name, "x") for name in ("split", "subset", "revision")),
    *((f"--{name}", name.replace("-", "_"), True)
      for name in ("square", "upscale", "strict", "allow-captionless", "drop-duplicates")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"src": "photos", "vae": "mine"}, "--vae does nothing without --cache"),
        ({"src": "photos", "precision": "fp32"}, "--precision does nothing without --cache"),
        ({"src": "photos", "precision": "int8", "cache": ["text"]}, "--precision int8: not known"),
        ({"src": "photos", "base": "models/sd15", "shards": 2}, "--base does nothing without --cache"),
        *(({"src": "photos", name: value}, f"{option} does nothing with images")
          for option, name, value in OF_SCENES),
        *(({"src": None, "scenes": 1, name: value}, f"{option} does nothing with --scenes")
          for option, name, value in OF_PICTURES),
    ],
)  # fmt: skip
def test_options_that_do_nothing_where_it_is_made(tmp_path, arguments, sentence):
    with pytest.raises(SceditError, match=sentence):
        prepare(**arguments, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("option", "name", "value"), [*OF_SCENES, *OF_PICTURES, ("--size", "size", 64)])
def test_options_that_made_a_dataset_do_nothing_once_it_is_there(tmp_path, option, name, value):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": ""}\n')
    with pytest.raises(SceditError, match=f"{option} does nothing for a dataset that is there"):
        prepare(None, tmp_path, shards=1, **{name: value})
