"""The measures, each on figures that are known; and who is compared with what."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.stats import spearmanr
from skimage.metrics import peak_signal_noise_ratio

from scedit_cli import conditions
from scedit_cli.conditions.consistency import color, depth, edges, normal, pose, seg, structure
from scedit_cli.conditions.detectors import detector
from scedit_cli.conditions.kinds.color import PALETTE
from scedit_cli.scenes.encodings import classes_to_image, depth_to_image, normals_to_image
from scedit_cli.utils.errors import SceditError


def noise(size: tuple[int, int] = (64, 48), seed: int = 0, mode: str = "RGB") -> Image.Image:
    channels = {"L": (), "RGB": (3,)}[mode]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], *channels), dtype=np.uint8))


def lines(*columns: int) -> Image.Image:
    picture = np.zeros((32, 32), np.uint8)
    picture[:, list(columns)] = 255
    return Image.fromarray(picture)


@pytest.mark.parametrize("kind", conditions.KINDS)
def test_every_kind_is_measured_and_a_condition_agrees_with_itself(kind):
    same = noise().convert("RGBA") if conditions.channels_of(kind) == 4 else noise()
    figures = conditions.find(kind).measure.compare(same.convert("RGB"), same)
    assert figures["consistency"] == pytest.approx(1, abs=1e-4) and list(figures)[0] == "consistency"
    assert len(figures) > 1


def test_edges_count_within_one_pixel():
    def f1(found, wanted):
        figures = edges.EDGES.compare(found, wanted)
        assert figures["consistency"] == figures["f1"]
        return figures["f1"]

    assert f1(lines(10), lines(11)) == 1
    assert f1(lines(10), lines(12)) == 0
    assert f1(lines(10), lines(10, 20)) == pytest.approx(2 / 3)
    assert f1(lines(10, 20), lines(10)) == pytest.approx(2 / 3)
    assert (f1(lines(), lines()), f1(lines(), lines(3))) == (1, 0)
    assert edges.boundary_f1(np.asarray(lines(10)) > 0, np.asarray(lines(12)) > 0, tolerance=2) == 1


def test_structural_similarity_knows_structure_from_brightness():
    picture = np.asarray(noise(mode="L"))
    assert structure.similarity(picture, picture) == pytest.approx(1)
    assert structure.similarity(picture // 2 + 64, picture) > 0.7 > structure.similarity(255 - picture, picture)
    assert structure.similarity(picture[:5, :5], picture[:5, :5]) == pytest.approx(1), "smaller than its window"


def test_psnr_is_scikit_images_up_to_one_level():
    one, other = np.asarray(noise(seed=1)), np.asarray(noise(seed=2))
    assert structure.psnr(one, other) == pytest.approx(peak_signal_noise_ratio(one, other), rel=1e-6)
    assert structure.psnr(one, one) == 48


def test_only_the_kept_part_counts_for_inpainting():
    wanted = np.dstack((np.asarray(noise()), np.full((48, 64), 255, np.uint8)))
    wanted[:, 40:, 3] = 0
    found = np.array(noise())
    found[:, 40:] = 7
    figures = structure.KEPT_PART.compare(Image.fromarray(found), Image.fromarray(wanted))
    assert figures == {"consistency": 1, "psnr": 48, "kept": 40 / 64}
    found[:, :40] += np.where(found[:, :40] < 246, 10, -10).astype(np.uint8)
    worse = structure.KEPT_PART.compare(Image.fromarray(found), Image.fromarray(wanted))
    assert worse["psnr"] == pytest.approx(20 * np.log10(25.5)) and worse["consistency"] == worse["psnr"] / 48


def test_relative_depth_knows_order_and_no_scale():
    wanted = noise(mode="L")
    half = Image.fromarray(np.asarray(wanted).astype(np.uint16) * 100 + 500)  # other bits, scale and shift
    figures = depth.RELATIVE_DEPTH.compare(half, wanted)
    assert figures == pytest.approx({"consistency": 1, "rank_correlation": 1, "rmse": 0}, abs=1e-6)
    away = depth.RELATIVE_DEPTH.compare(Image.fromarray(255 - np.asarray(wanted)), wanted)
    assert (away["consistency"], away["rank_correlation"]) == (0, pytest.approx(-1))
    one, other = noise(seed=1, mode="L"), noise(seed=2, mode="L")
    found = depth.RELATIVE_DEPTH.compare(one, other)
    x, y = (np.asarray(each) / 255 for each in (one, other))
    assert found["rank_correlation"] == pytest.approx(spearmanr(x, y, axis=None).statistic)
    fitted = np.polyval(np.polyfit(x.ravel(), y.ravel(), 1), x)
    assert found["rmse"] == pytest.approx(np.sqrt(np.square(fitted - y).mean()))
    flat = Image.new("L", one.size, 9)
    assert [depth.RELATIVE_DEPTH.compare(flat, each)["consistency"] for each in (flat, one)] == [1, 0]


def test_scene_depth_is_measured_in_metres():
    wanted = np.full((4, 4), 4.0)
    wanted[2:] = np.inf  # the sky, at 16 m where it is shown
    found = np.where(np.isinf(wanted), 16, 6.0)
    figures = depth.SCENE_DEPTH.compare(*(Image.fromarray(depth_to_image(each)) for each in (found, wanted)))
    assert figures["relative_error"] == pytest.approx(0.25, abs=0.01)
    assert figures["consistency"] == 1 - figures["relative_error"] and figures["rank_correlation"] == 1


def test_segmentations_are_compared_by_the_nearest_colour():
    wanted, found = np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 5]])
    shown = [classes_to_image(each).astype(int) for each in (found, wanted)]
    shown[1] = np.clip(shown[1] + 9, 0, 255)
    figures = seg.SCENE_CLASSES.compare(*(Image.fromarray(each.astype(np.uint8)) for each in shown))
    assert figures["consistency"] == figures["mean_iou"] == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert figures["pixel_accuracy"] == 0.5


def test_ade20k_has_its_own_palette():
    wall, sky, sea = (120, 120, 120), (6, 230, 230), (9, 7, 230)
    wanted = Image.fromarray(np.array([[wall, wall, sky, sky]], np.uint8))
    found = Image.fromarray(np.array([[wall, (118, 121, 120), sky, sea]], np.uint8))
    assert seg.ADE20K.compare(found, wanted)["mean_iou"] == pytest.approx((1 + 1 / 2 + 0) / 3)


def test_normals_are_compared_by_their_angle():
    wanted = np.array([[(0, 0, 1), (0, 0, 1), (0, 0, 1), (0, 0, 0)]], np.float32)
    found = np.array([[(0, 0, 1), (0, 0, -1), (0, 0, 0), (0, 0, 0)]], np.float32)
    shown = (Image.fromarray(normals_to_image(each)) for each in (found, wanted))
    figures = normal.NORMALS.compare(*shown)
    assert figures["angle"] == pytest.approx((0 + 180 + 90 + 0) / 4, abs=1)
    assert figures["consistency"] == 1 - figures["angle"] / 180


def test_palettes_differ_by_delta_e():
    black, white = Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), "white")
    assert conditions.consistency("color", black, black) == 1
    assert conditions.consistency("color", black, white) == pytest.approx(0, abs=1e-6)
    red, green = Image.new("RGB", (64, 64), (255, 0, 0)), Image.new("RGB", (64, 64), (0, 255, 0))
    assert PALETTE.compare(red, green)["delta_e"] == pytest.approx(86.6, abs=0.1)


def test_shuffled_colours_count_wherever_they_are():
    picture = noise()
    moved = Image.fromarray(np.roll(np.asarray(picture), 11, 1))
    assert color.COLOURS.compare(moved, picture)["consistency"] == 1
    half = Image.fromarray(np.where(np.arange(64)[:, None] < 32, np.uint8(0), np.uint8(255)).repeat(3, 1)[None])
    assert color.COLOURS.compare(Image.new("RGB", (64, 1)), half)["intersection"] == 0.5


STANDING = np.array(
    [
        (100, 30), (100, 60), (75, 62), (60, 95), (55, 130), (125, 62), (140, 95), (145, 130), (85, 130), (82, 175),
        (80, 220), (115, 130), (118, 175), (120, 220), (94, 24), (106, 24), (86, 28), (114, 28),
    ],
    float,
)  # fmt: skip


def drawn(*people: np.ndarray, size: tuple[int, int] = (400, 256)) -> Image.Image:
    """By the function that draws OpenPose's skeletons in controlnet_aux."""
    util, body = detector("open_pose.util"), detector("open_pose.body")
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    for person in people:
        points = [None if np.isnan(x) else body.Keypoint(x / size[0], y / size[1]) for x, y in person]
        canvas = util.draw_bodypose(canvas, points)
    return Image.fromarray(canvas)


def test_a_drawn_skeleton_is_read_back():
    partly = STANDING + (200, 10)
    partly[[3, 4, 10]] = np.nan
    found = pose.skeletons(np.asarray(drawn(STANDING, partly)))
    assert len(found) == 2
    for mine, wanted in zip(sorted(found, key=lambda each: np.nanmin(each[:, 0])), (STANDING, partly), strict=True):
        assert np.array_equal(np.isnan(mine), np.isnan(wanted))
        assert np.nanmax(np.abs(mine - wanted)) < 2.5  # discs overlap on the face


def test_hands_and_faces_are_no_skeletons():
    picture = drawn(STANDING)
    draw = ImageDraw.Draw(picture)
    for x in range(250, 300, 10):  # a hand's joints, in the colour of a knee
        draw.ellipse((x, 100, x + 8, 108), fill=(0, 0, 255))
        draw.line((x, 104, x + 10, 104), fill=(255, 170, 0), width=2)
    assert len(pose.skeletons(np.asarray(picture))) == 1


def test_keypoint_similarity_is_cocos():
    moved = STANDING.copy()
    moved[4] += (6, 8)  # the right wrist, by 10 pixels
    moved[7] = np.nan  # the left one is not found
    area = 0.53 * 90 * 196
    wrist = np.exp(-(10**2) / (2 * area * (2 * 0.062) ** 2))
    assert pose.keypoint_similarity(moved, STANDING) == pytest.approx((16 + wrist) / 18)
    assert pose.keypoint_similarity(STANDING, STANDING) == 1


def test_poses_are_paired_and_people_too_many_or_missing_count():
    two = [STANDING, STANDING + (200, 0)]
    assert pose.pose_similarity(two[::-1], two) == pytest.approx(1)
    assert pose.pose_similarity(two[:1], two) == pose.pose_similarity(two, two[:1]) == pytest.approx(1 / 2)
    assert (pose.pose_similarity([], []), pose.pose_similarity([], two)) == (1, 0)
    assert pose.POSE.compare(drawn(*two), drawn(*two))["oks"] == pytest.approx(1)
    assert pose.POSE.compare(drawn(two[0] + (40, 0)), drawn(two[0]))["oks"] < 0.3


def test_a_picture_is_annotated_before_it_is_compared():
    picture = noise()
    [figures] = conditions.measured("canny", [picture], [conditions.annotate("canny", picture)])
    assert figures == pytest.approx({"consistency": 1, "f1": 1, "ssim": 1})
    assert conditions.consistency("gray", picture, picture.convert("L")) == pytest.approx(1)
    assert conditions.measured("canny", [], []) == []


def test_the_worlds_annotator_brings_its_own_measure():
    from scedit_cli.data.scenes import example

    scene = example(0)
    [figures] = conditions.measured("depth", [scene.image], [scene.conditions["depth"]], "scene")
    assert {"relative_error", "rank_correlation", "rmse"} < set(figures)
    assert figures["consistency"] == 1 - figures["relative_error"]


def test_what_is_missing_is_told_before_there_are_pictures(tmp_path):
    conditions.check_measurable("depth", "scene")
    conditions.check_measurable("inpaint")
    with pytest.raises(SceditError, match="ControlNetHED.pth"):
        conditions.check_measurable("hed", weights=tmp_path)


def test_what_cannot_be_measured_is_told():
    with pytest.raises(SceditError, match="64x48 pixels cannot be compared with a canny of 32x32"):
        conditions.consistency("canny", noise(), lines())
    with pytest.raises(SceditError, match="nothing measures how well an image follows thermal"):
        conditions.consistency("thermal", noise(), noise())


def test_control_score():
    assert conditions.control_score([0.4, 0.6], [0.2, 0.2], [0.7, 0.9]) == pytest.approx(0.5)
    assert conditions.control_score([0.1], [0.2], [0.6]) == pytest.approx(-0.25)
    assert conditions.control_score([0.5], [0.5], [0.5]) is None
