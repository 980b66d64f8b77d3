"""Who makes a condition, with which settings: what was given, else recorded, else taught, else the default."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from scedit_cli import conditions
from scedit_cli.conditions.annotation_spec import make_specs
from scedit_cli.core.tuners import SCTuner
from scedit_cli.data.annotation import record_of, save_condition
from scedit_cli.generation.annotators import annotation_for
from scedit_cli.inference.config import Control
from scedit_cli.inference.controls import OpenedControl
from scedit_cli.utils.errors import SceditError


@pytest.fixture
def condition(tmp_path):
    """A condition image made as the texts of a `--param` and an annotator say; without any, a nameless one."""

    def make(
        kind: str, *params: str, annotator: str | None = None, photo: bool = False, **given: str
    ) -> OpenedControl:
        place, picture = tmp_path / f"{kind}.png", Image.new("RGB", (64, 64))
        if params or annotator:
            [order] = make_specs([kind], params, annotator=annotator)
            save_condition(picture, place, record_of(order, order.settings("x"), "digest"))
        else:
            picture.save(place)
        source = {"photo" if photo else "image": place}
        return OpenedControl(Control(kind, **source, params=given), "controls[0]", picture)

    return make


def taught(recipe: str) -> SCTuner:
    tuner = SCTuner([4], [4])
    tuner.metadata = {"recipe": recipe}
    return tuner


LOWER = taught('[data]\nmake = ["canny"]\nparams = ["canny.low=50", "high=120..240"]')


def settings(condition: OpenedControl, taker: SCTuner | None) -> tuple[float, float]:
    made = annotation_for(condition, taker, "somewhere").settings("x")
    return made.low, made.high


def test_the_first_that_tells_decides(condition):
    assert settings(condition("canny"), None) == (100, 200)
    assert settings(condition("canny"), LOWER) == (50, 200)  # what was drawn for each picture is nobody's
    recorded = condition("canny", "low=20", "high=60")
    assert settings(recorded, LOWER) == (20, 60)
    assert settings(replace(recorded, control=replace(recorded.control, params={"low": 30})), LOWER) == (30, 60)
    assert settings(condition("canny", photo=True, high="90"), LOWER) == (50, 90)


def test_a_condition_picture_names_its_annotator(condition):
    assert annotation_for(condition("depth"), None, "somewhere").by == "depth-anything"
    assert annotation_for(condition("depth"), None, "scenes").by == "scene"
    assert annotation_for(condition("depth", annotator="midas"), None, "scenes").by == "midas"
    assert annotation_for(condition("depth", annotator="scene"), None, "somewhere").by == "scene"


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "color", "annotator": "opencv", "parameters": {"low": 1}},
        {"kind": "canny", "annotator": "gone", "parameters": {"low": 1}},
        {"kind": "canny", "annotator": "opencv", "parameters": {"sharp": 1}},
        {"kind": "canny", "annotator": ["opencv"], "parameters": None},
        {"kind": "canny"},
    ],
)
def test_records_of_others_tell_nothing(condition, record):
    foreign = condition("canny")
    save_condition(foreign.image, foreign.control.image, record)
    assert settings(foreign, None) == (100, 200)


@pytest.mark.parametrize("recipe", ["no TOML [", "[data]", "[data]\nparams = 5", '[data]\nparams = ["sharp=1"]', ""])
def test_recipes_that_say_nothing(condition, recipe):
    assert settings(condition("canny"), taught(recipe)) == (100, 200)


def test_what_cannot_be_is_told(condition):
    assert annotation_for(OpenedControl(Control("mine", "x.png"), "control", None), None, "scenes") is None
    with pytest.raises(SceditError, match="no parameter 'lo'"):
        annotation_for(condition("canny", lo="3"), None, "scenes")
    with pytest.raises(SceditError, match="params canny.low=5..9: one image has nothing to draw from"):
        annotation_for(condition("canny", low="5..9"), None, "scenes")


def test_a_record_of_every_annotator_is_read_back(condition):
    for kind in conditions.KINDS:
        for annotator in conditions.annotators(kind):
            maker = annotation_for(condition(kind, annotator=annotator.name), None, "somewhere")
            assert (maker.by, maker.settings("x")) == (annotator.name, annotator.settings())
