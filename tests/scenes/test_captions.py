"""Captions say what is true of their scene."""

from __future__ import annotations

import re

from scedit_cli.scenes.captions import caption, named_objects
from scedit_cli.scenes.layout import sample_scene

SCENES = [sample_scene(seed) for seed in range(200)]


def test_every_object_is_named_once_and_nothing_else() -> None:
    for scene in SCENES:
        named = named_objects(caption(scene))
        assert sorted(named) == sorted((thing.color, thing.shape) for thing in scene.objects), caption(scene)


def test_relations_hold() -> None:
    found = set()
    for scene in SCENES:
        text = caption(scene)
        if not (match := re.search(r" (left of|right of|behind|in front of) ", text)):
            continue
        relation = match[1]
        found.add(relation)
        places = {(thing.color, thing.shape): thing for thing in scene.objects}
        first, second = (places[pair] for pair in named_objects(text))
        holds = {
            "left of": first.x < second.x,
            "right of": first.x > second.x,
            "behind": first.y > second.y,
            "in front of": first.y < second.y,
        }
        assert holds[relation], text
    assert found == {"left of", "right of", "behind", "in front of"}


def test_adjectives_and_surroundings_hold() -> None:
    for scene in SCENES:
        text = caption(scene)
        assert f"{scene.floor} floor" in text
        assert (" sky" in text) == (f"{scene.sky} sky" in text)
        for thing in scene.objects:
            named = rf"\ban? ((?:(?:large|small|shiny|matte) )*){thing.color} {thing.shape}"
            before = re.search(named, text)[1].split()
            assert ("shiny" in before) <= thing.shiny and ("matte" in before) <= (not thing.shiny), text
            assert ("large" in before) <= (thing.size > 0.96) and ("small" in before) <= (thing.size < 0.84), text


def test_wordings_vary_and_a_seed_fixes_them() -> None:
    scene = next(scene for scene in SCENES if len(scene.objects) == 2)
    assert len({caption(scene, seed) for seed in range(50)}) > 20
    assert caption(scene) == caption(scene)


def test_articles_fit() -> None:
    for scene in SCENES:
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption(scene)), caption(scene)
