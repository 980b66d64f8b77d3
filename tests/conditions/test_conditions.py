"""Every kind makes condition pictures of the picture's size, and its measure tells who follows one and who does not."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from scedit_cli import conditions
from scedit_cli.conditions import kinds
from scedit_cli.conditions.kinds import canny
from scedit_cli.conditions.listing import listing
from scedit_cli.conditions.registry import all_kinds
from scedit_cli.data.scenes import SCENE_KINDS, example
from scedit_cli.utils.errors import SceditError


@pytest.fixture(scope="module")
def scenes():
    return [example(seed) for seed in range(4)]


def photo(width: int, height: int) -> Image.Image:
    """Smooth blobs, which have edges of all strengths."""
    noise = np.random.default_rng(width).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def test_the_kinds_are_the_files():
    assert set(conditions.KINDS) == {
        "blur", "canny", "color", "depth", "gradient", "gray", "hed", "inpaint", "lineart", "lineart-anime", "mlsd",
        "normal", "outpaint", "pidinet", "pose", "scribble", "seg", "shuffle", "tile",
    }  # fmt: skip


NEGATIVE = """
from PIL import ImageOps

from scedit_cli.conditions.consistency.structure import LIKENESS
from scedit_cli.conditions.registry import Annotator, Kind


def negative(parameters, weights=None, device="cpu"):
    return lambda pictures: [ImageOps.invert(picture) for picture in pictures]


KIND = Kind("negative", (Annotator("negative", "inverted", "Pillow", negative, licence="MIT-CMU"),), LIKENESS)
"""


def test_a_new_kind_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "negative.py").write_text(NEGATIVE)
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(tmp_path)])
    all_kinds.cache_clear()
    try:
        picture = photo(64, 64)
        made = conditions.annotate("negative", picture)
        assert np.array_equal(np.asarray(made), 255 - np.asarray(picture))
        assert conditions.consistency("negative", picture, made) == pytest.approx(1)
        assert conditions.consistency("negative", made, made) < 0.5
        assert "negative" in conditions.measured_kinds()
        assert conditions.find("negative").hint(made).shape == (3, 64, 64)
        assert {"negative"} == {row[0] for row in listing().rows()} - set(conditions.KINDS)
    finally:
        all_kinds.cache_clear()
        del sys.modules[f"{kinds.__name__}.negative"]


@pytest.mark.parametrize("size", [(128, 128), (100, 75), (33, 210), (7, 5)])
@pytest.mark.parametrize(
    ("kind", "annotator"),
    [(kind, each.name) for kind in conditions.KINDS for each in conditions.annotators(kind) if not each.weights],
)
def test_a_condition_has_its_pictures_size(kind, annotator, size):
    made = conditions.annotate(kind, photo(*size), annotator)
    assert made.size == size
    assert made.mode == "RGBA" if conditions.find(kind).channels == 4 else made.mode in ("L", "RGB")


@pytest.mark.parametrize("size", [(128, 128), (100, 75), (500, 333)])
def test_canny_is_opencvs_on_the_picture_as_it_is(size):
    picture = photo(*size)
    expected = cv2.Canny(np.asarray(picture), 100, 200)
    assert expected.any()
    assert np.array_equal(np.asarray(conditions.annotate("canny", picture)), expected)
    looser = conditions.annotate("canny", picture, low=20, high="60")
    assert np.array_equal(np.asarray(looser), cv2.Canny(np.asarray(picture), 20, 60))


def test_canny_imports_nothing_large():
    program = (
        "import sys; from PIL import Image; from scedit_cli import conditions;"
        "conditions.annotate('canny', Image.new('RGB', (64, 64)));"
        "assert not {'torch', 'timm', 'mediapipe', 'controlnet_aux'} & set(sys.modules), 'too much was imported'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_gradient_is_the_largest_of_the_channels():
    across, down = np.meshgrid(np.arange(32), np.arange(32))
    ramps = np.stack([2 * across, 3 * across + 4 * down, 4.9 * down], -1).astype(np.uint8)  # 2, 5 and 4.9 a pixel
    drawn = np.asarray(conditions.annotate("gradient", Image.fromarray(ramps)))
    assert drawn.shape == (32, 32)
    assert (drawn[8:24, 8:24] == round(255 * np.tanh(5 / 16))).all(), "away from the border, where a ramp ends"
    brighter = conditions.annotate("gradient", Image.fromarray(ramps), slope=5)
    assert (np.asarray(brighter)[8:24, 8:24] == round(255 * np.tanh(1))).all()


def test_the_gradient_is_the_same_in_all_directions():
    """Scharr's operator errs least there: of a blurred disc's rim, all parts are alike."""
    across, down = np.meshgrid(np.arange(65) - 32, np.arange(65) - 32)
    disc = 255 / (1 + np.exp(np.hypot(across, down) - 20))
    picture = Image.fromarray(np.dstack([disc] * 3).astype(np.uint8))
    drawn = np.asarray(conditions.annotate("gradient", picture, slope=99))
    rim = [int(drawn[32 + round(20 * np.sin(a)), 32 + round(20 * np.cos(a))]) for a in (0, np.arctan2(3, 4), np.pi / 2)]
    assert max(rim) - min(rim) <= 2 and min(rim) > 80, rim


def test_faint_edges_of_a_gradient_count(scenes):
    """The strong half of a condition alone is not the condition."""
    own = conditions.annotate("gradient", scenes[0].image)
    strong = Image.fromarray(np.where(np.asarray(own) > 127, 255, 0).astype(np.uint8))
    assert conditions.consistency("gradient", scenes[0].image, own) == pytest.approx(1, abs=1e-6)
    assert conditions.consistency("gradient", scenes[0].image, strong) < 0.8


def test_a_wider_gaussian_makes_softer_edges():
    step = np.zeros((32, 64, 3), np.uint8)
    step[:, 32:] = 200
    row, wide = (np.asarray(conditions.annotate("gradient", Image.fromarray(step), sigma=s))[16] for s in (1, 3))
    # Half the difference of the columns on both sides is 0.32 of the step beside it, 64 levels: tanh 4 is white.
    assert row[31] == row[32] > 250 and row[:27].max() == row[37:].max() == 0
    assert (wide > 0).sum() > 2 * (row > 0).sum()


def test_color_shows_each_cells_mean():
    picture = photo(96, 64)
    cells = np.asarray(conditions.annotate("color", picture)).reshape(8, 8, 12, 8, 3)
    means = np.asarray(picture, float).reshape(8, 8, 12, 8, 3).mean((1, 3))
    assert np.abs(cells - means[:, None, :, None]).max() <= 1
    assert len(set(map(tuple, np.asarray(conditions.annotate("color", picture, cells=2)).reshape(-1, 3)))) == 6


@pytest.mark.parametrize("kind", [*SCENE_KINDS, "gradient"])
def test_a_scene_follows_its_own_condition_and_not_anothers(kind, scenes):
    wanted = [example(seed, (kind,)).conditions[kind] for seed in range(4)]
    by = conditions.scene_annotator(kind)
    own = conditions.consistencies(kind, [scene.image for scene in scenes], wanted, by)
    others = conditions.consistencies(kind, [scene.image for scene in scenes[1:] + scenes[:1]], wanted, by)
    # Below what the shipped reader reaches: its mean IoU on true pictures is 0.70. Raise with a better reader.
    assert min(own) > {"canny": 0.999, "color": 0.999, "gradient": 0.999}.get(kind, 0.85)
    assert all(0 <= other < mine for mine, other in zip(own, others, strict=True))
    assert conditions.consistency(kind, scenes[1].image, wanted[1], by) == pytest.approx(own[1], abs=1e-4)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("depth.png", "depth"),
        ("conditions/depth/0001.png", "depth"),
        ("chair-Depth.png", "depth"),
        ("canny/my_seg.png", "seg"),
        ("canny-seg.png", None),
        ("girl-lineart-anime.png", "lineart-anime"),
        ("lineart anime/1.png", "lineart-anime"),
        ("lineart.png", "lineart"),
        ("segments.png", None),
        ("photo.png", None),
        ("depth/deeper/0001.png", None),
    ],
)
def test_kind_of_path(path, kind):
    assert conditions.kind_of_path(path) == kind


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda p: conditions.annotate("cany", p), "'cany'.*did you mean canny"),
        (lambda p: conditions.annotate("depth", p, "mides"), "depth has no annotator 'mides'.*midas, scene"),
        (lambda p: conditions.annotate("canny", p, lo=3), "no parameter 'lo'.*high, low"),
        (lambda p: conditions.annotate("canny", p, low="abc"), "low is 'abc'.*number"),
        (lambda p: conditions.annotate("canny", p, low=-1), "low is -1.*greater than or equal to 0"),
        (lambda p: conditions.annotate("seg", p, "scene", low=1), "it takes none"),
        (lambda p: conditions.consistency("canny", p, photo(32, 32)), "64x64 pixels.*canny of 32x32"),
    ],
)
def test_bad_input_is_told(ask, sentence):
    with pytest.raises(SceditError, match=sentence):
        ask(photo(64, 64))


@pytest.mark.parametrize("high", [127, 128, 129, 257])
def test_large_pictures_have_opencvs_edges(high, monkeypatch):
    monkeypatch.setattr(canny, "_LARGE", 0)
    noise = np.random.default_rng(0).integers(0, 256, (high, 70, 3), dtype=np.uint8)
    for picture in (np.asarray(photo(150, high)), noise):
        for thresholds in ((100, 200), (20.5, 460.7)):
            settings = canny.Thresholds(low=thresholds[0], high=thresholds[1])
            [made] = canny.edges(settings)([Image.fromarray(picture)])
            assert np.array_equal(made, cv2.Canny(picture, *thresholds))
