"""What is ordered: settings by kind, fixed or drawn, the same for the same picture and seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from scedit_cli.conditions.annotation_spec import make_specs
from scedit_cli.utils.errors import SceditError


def test_settings_go_to_the_kind_they_name():
    canny, color = make_specs(["canny", "color"], ["canny.low=50", "color.cells=4", "canny.high = 90"])
    assert canny.settings("a.png").model_dump() == {"low": 50, "high": 90}
    assert color.settings("a.png").model_dump() == {"cells": 4}
    [alone] = make_specs(["canny"], ["low=50"])
    assert alone.settings("a.png").low == 50


def test_numbers_are_drawn_for_each_picture():
    [order] = make_specs(["canny"], ["low=50..150"], seed=1)
    drawn = [order.settings(f"{number}.png").low for number in range(200)]
    assert all(50 <= low <= 150 for low in drawn) and len(set(drawn)) == 200
    assert min(drawn) < 60 and max(drawn) > 140
    assert [order.settings(f"{number}.png").low for number in range(200)] == drawn
    [other] = make_specs(["canny"], ["low=50..150"], seed=2)
    assert other.settings("0.png").low != drawn[0]
    assert order.settings("0.png").high == 200


def test_whole_numbers_are_drawn_with_both_ends():
    [order] = make_specs(["color"], ["cells=2..4"])
    assert {order.settings(str(number)).cells for number in range(50)} == {2, 3, 4}
    [small] = make_specs(["canny"], ["low=1e1..2e1"])
    assert 10 <= small.settings("a").low <= 20


def test_a_seed_that_nobody_gave_is_drawn_on_demand():
    [order] = make_specs(["inpaint"], ["mask=box"])
    assert order.settings("a") == order.settings("b")
    drawn = order.with_drawn_seed()
    assert drawn.settings("a 1").seed != drawn.settings("a 2").seed and drawn.settings("a 1").mask == "box"
    [given] = make_specs(["inpaint"], ["seed=7"])
    assert given.with_drawn_seed() == given
    [without] = make_specs(["canny"])
    assert without.with_drawn_seed() == without


def test_annotator_and_weights_are_the_orders():
    [order] = make_specs(["depth"], annotator="scene", weights=Path("there"))
    assert (order.annotator.name, order.weights) == ("scene", Path("there"))
    assert make_specs(["depth"])[0].by == "depth-anything"
    several = make_specs(["canny", "depth", "seg"], annotator="scene")
    assert [order.by for order in several] == ["opencv", "scene", "scene"]
    with pytest.raises(SceditError, match="canny has no annotator 'scene'"):
        make_specs(["canny", "color"], annotator="scene")


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        (["mask=1..2"], "mask is '1..2'"),
        (["least=0..0.5"], "least is 0.0"),
        (["least=0.6..0.8"], "least is 0.6, above most, which is 0.5 .set both"),
        (["least=0.1..0.5", "most=0.4..0.6"], "least is 0.5, above most, which is 0.4"),
        (["size=3"], "no parameter 'size'.*it takes least, mask, most, seed"),
        (["inpaint.=3"], "expected KIND.NAME=VALUE.*params inpaint.low"),
        (["seed=1..2..3"], "seed is '1..2..3'"),
    ],
)
def test_settings_that_cannot_be_are_told_before_a_picture_is_opened(params, sentence):
    with pytest.raises(SceditError, match=sentence):
        make_specs(["inpaint"], params)


@pytest.mark.parametrize("params", [["low=250"], ["high=50"], ["low=50..150", "high=140..200"]])
def test_low_thresholds_above_high_ones_are_refused(params):
    with pytest.raises(SceditError, match=r"canny by opencv: low is \d+, above high, which is \d+ .set both"):
        make_specs(["canny"], params)
