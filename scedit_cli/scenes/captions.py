"""Captions of scenes, and the objects that a caption names."""

from __future__ import annotations

import re

import numpy as np

from scedit_cli.scenes.scene import COLORS, SHAPES, Scene, Thing

_NAMED = re.compile(rf"\b({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b")
_COUNTS = ("one", "two", "three", "four")


def caption(scene: Scene, seed: int | None = None) -> str:
    """Return a true caption of the scene that names every object with its colour, e.g. "a red sphere and a blue cube on
    a gray floor". `seed` chooses the wording; by default it is the scene's seed."""
    rng = np.random.default_rng([scene.seed if seed is None else seed, 0xCA9710])
    things = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
    floor = f"{'a' if rng.random() < 0.7 else 'the'} {_floor(scene, rng)} floor"
    sky = f" under {_article(scene.sky)} {scene.sky} sky" if rng.random() < 0.35 else ""
    if len(things) == 2 and rng.random() < 0.45:
        what = _relation(things, rng)
    else:
        what = _listed([_noun(thing, rng) for thing in things])
    wording = rng.random()
    if wording < 0.60:
        return f"{what} on {floor}{sky}"
    if wording < 0.75:
        return f"on {floor}{sky}, {what}"
    if wording < 0.90:
        return f"a picture of {what} on {floor}{sky}"
    return f"{_COUNTS[len(things) - 1]} object{'s' if len(things) > 1 else ''} on {floor}{sky}: {what}"


def named_objects(text: str) -> list[tuple[str, str]]:
    """Return the (colour, shape) pairs that a caption names, in the order of the text."""
    return _NAMED.findall(text)


def shares_attribute(text: str) -> bool:
    """Return whether two of the objects that a caption names have one colour or one shape."""
    named = named_objects(text)
    return any(len(set(part)) < len(named) for part in zip(*named, strict=True))


def _noun(thing: Thing, rng: np.random.Generator) -> str:
    words = []
    if rng.random() < 0.2:
        words.append("large" if thing.size > 0.96 else "small" if thing.size < 0.84 else "")
    if rng.random() < 0.2:
        words.append("shiny" if thing.shiny else "matte")
    words = [w for w in (*words, thing.color, thing.shape) if w]
    return f"{_article(words[0])} {' '.join(words)}"


def _floor(scene: Scene, rng: np.random.Generator) -> str:
    return scene.floor if scene.texture == "plain" or rng.random() < 0.15 else f"{scene.texture} {scene.floor}"


def _relation(things: list[Thing], rng: np.random.Generator) -> str:
    first, second = things
    if abs(first.x - second.x) > abs(first.y - second.y):
        side = "left" if first.x < second.x else "right"
        where = f"to the {side} of" if rng.random() < 0.5 else f"{side} of"
    else:
        where = "behind" if first.y > second.y else "in front of"
    return f"{_noun(first, rng)} {where} {_noun(second, rng)}"


def _listed(nouns: list[str]) -> str:
    return nouns[0] if len(nouns) == 1 else f"{', '.join(nouns[:-1])} and {nouns[-1]}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
