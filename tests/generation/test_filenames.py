from __future__ import annotations

from pathlib import Path

import pytest

from scedit_cli.generation.filenames import FIELDS, Names
from scedit_cli.utils.errors import SceditError

FACTS = dict.fromkeys(FIELDS, "x") | {"prompt": "a red/../cube: 50%", "seed": 7, "guidance": 7.5}


def test_a_template_names_pictures(tmp_path):
    names = Names(tmp_path, "{prompt}/{seed:03d}-{number}", False)
    names.check(2, True)
    assert names.places(5, [FACTS] * 2) == [tmp_path / "a-red-..-cube-50" / f"007-{n}.png" for n in (5, 6)]
    assert Names(tmp_path, "{seed}.webp", False).places(1, [FACTS]) == [tmp_path / "7.webp"]
    assert Names(tmp_path, "g{guidance}", False).places(1, [FACTS]) == [tmp_path / "g7.5.png"]


def test_a_prompt_never_leaves_the_folder(tmp_path):
    facts = FACTS | {"prompt": "../../etc/passwd " + "x" * 300}
    (place,) = Names(tmp_path, "{prompt}", False).places(1, [facts])
    assert place.parent == tmp_path and len(place.name) < 90
    assert Names(tmp_path, "{prompt}", False).places(1, [FACTS | {"prompt": ""}]) == [tmp_path / "empty.png"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{sed}", "{sed} is not known"),
        ("{seed.__class__}", "is not known"),
        ("{seed:q}", "out.name"),
        ("{seed", "out.name"),
        ("../{seed}", "no name within the folder"),
        ("/tmp/{seed}", "no name within the folder"),
        ("", "no name within the folder"),
    ],
)
def test_templates_that_cannot_be(tmp_path, template, message):
    with pytest.raises(SceditError) as error:
        Names(tmp_path, template, False).check(1, False)
    assert message in error.value.message and error.value.hint


def test_a_folder_may_have_a_dot_in_its_name(tmp_path):
    for name in ("v1.5", "run.final", "canny.d"):
        Names(tmp_path / name, None, False).check(1, False)
    (tmp_path / "mine.txt").mkdir()
    Names(tmp_path / "mine.txt", None, False).check(1, False)


def test_a_template_wants_a_folder(tmp_path):
    with pytest.raises(SceditError, match="is a name already"):
        Names(Path(tmp_path / "x.png"), "{seed}", False).check(1, False)
