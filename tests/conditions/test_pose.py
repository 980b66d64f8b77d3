"""People: a known skeleton through DWPose's scaling and drawing, and through OpenPose's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scedit_cli import conditions
from scedit_cli.conditions import dwpose, licences
from scedit_cli.conditions.detectors import detector
from scedit_cli.conditions.kinds import pose
from scedit_cli.utils.errors import SceditError
from tests.conditions import onnx_people
from tests.conditions.local_weights import save_weights

# OpenPose's 18 joints as COCO's: nose, neck (between the shoulders), arms, legs, eyes and ears, right before left.
COCO = [0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
COLORS = [
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
    (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255),
    (255, 0, 170), (255, 0, 85),
]  # fmt: skip
SIZE = (480, 640)
BOX = (240, 320, 240, 320)  # DWPose adds a quarter: it is shown 300 x 400 pixels around the middle
BLANK = Image.new("RGB", SIZE, "gray")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("pose"))


def saved(folder, label=0, confidence=1.0):
    into = folder / "yzd-v/DWPose"
    into.mkdir(parents=True)
    onnx_people.save_finder(into / "yolox_l.onnx", BOX, label=label)
    onnx_people.save_estimator(into / "dw-ll_ucoco_384.onnx", confidence)
    return folder


def expected() -> np.ndarray:
    """(133, 2): where COCO's keypoints are in the image."""
    seen = onnx_people.places() / np.array((288, 384))
    return seen * (300, 400) + np.array((240, 320)) - (150, 200)


def test_keypoints_are_where_they_are(weights):
    [person] = dwpose.keypoints(BLANK, weights)
    assert person.shape == (134, 3) and person.dtype == np.float32
    assert (person[:, 2] == 1).all()
    for joint, coco in enumerate(COCO):
        place = expected()[[5, 6]].mean(0) if coco is None else expected()[coco]
        assert person[joint, :2] == pytest.approx(place, abs=0.01)
    assert person[24:, :2] == pytest.approx(expected()[23:], abs=0.01)  # face and hands


def test_the_skeleton_is_drawn_there(weights):
    picture = np.asarray(conditions.annotate("pose", BLANK, weights=weights, hands=False, face=False, resolution=480))
    [person] = dwpose.keypoints(BLANK, weights)
    for (x, y, _), color in zip(person[:18], COLORS, strict=True):
        assert tuple(picture[int(y), int(x)]) == color
    assert picture.any(-1).mean() < 0.2


@pytest.mark.parametrize("part", ["body", "hands", "face"])
def test_parts_are_drawn_alone(weights, part):
    others = dict.fromkeys({"body", "hands", "face"} - {part}, "false")
    picture = np.asarray(conditions.annotate("pose", BLANK, weights=weights, resolution=480, **others))
    [person] = dwpose.keypoints(BLANK, weights)
    spans = {"body": slice(0, 18), "hands": slice(92, 134), "face": slice(24, 92)}
    drawn = {
        name: picture[person[span, 1].astype(int), person[span, 0].astype(int)].any(-1).mean()
        for name, span in spans.items()
    }
    assert drawn.pop(part) == 1
    assert max(drawn.values()) < 0.5  # where its limbs cross them
    if part != "body":
        x, y = person[spans[part]][0, :2].astype(int)
        assert tuple(picture[y, x]) == {"hands": (0, 0, 255), "face": (255, 255, 255)}[part]


def test_joints_keep_their_width(weights):
    """They are drawn at the resolution and resized with the image."""
    shown = {
        resolution: conditions.annotate("pose", BLANK, weights=weights, resolution=resolution)
        for resolution in (240, 960)
    }
    assert {picture.size for picture in shown.values()} == {SIZE}
    coarse, fine = (np.asarray(picture).any(-1).mean() for picture in shown.values())
    assert coarse > 1.5 * fine


def test_who_is_no_person_or_unsure_is_not_drawn(tmp_path):
    dog = saved(tmp_path / "dog", label=16)
    assert dwpose.keypoints(BLANK, dog).shape == (0, 134, 3)
    assert not np.asarray(conditions.annotate("pose", BLANK, weights=dog)).any()
    unsure = saved(tmp_path / "unsure", confidence=0.4)
    assert np.asarray(conditions.annotate("pose", BLANK, weights=unsure)).any()
    assert not np.asarray(conditions.annotate("pose", BLANK, weights=unsure, threshold=0.5)).any()


def test_several_people_and_one_that_is_found_twice(tmp_path):
    """Boxes that overlap by more than 0.45 are one person's; pictures wider or higher than 640 pixels are shrunk."""
    saved(tmp_path)
    finder = tmp_path / "yzd-v/DWPose/yolox_l.onnx"
    boxes = (160, 320, 120, 400), (170, 320, 120, 400), (480, 320, 90, 120)
    onnx_people.save_finder(finder, *boxes)
    dwpose.models.cache_clear()
    found = dwpose.keypoints(Image.new("RGB", (1280, 1280)), tmp_path)
    seen = onnx_people.places()[0] / np.array((288, 384)) - 0.5  # the nose, from the middle of what DWPose is shown
    for person, (x, y, _, high) in zip(found, (boxes[0], boxes[2]), strict=True):
        size = 1.25 * high * np.array((0.75, 1))
        assert person[0, :2] == pytest.approx(2 * (np.array((x, y)) + seen * size), abs=0.1)
    dwpose.models.cache_clear()


def test_networks_are_shown_what_they_were_trained_on(weights, monkeypatch):
    """YOLOX the whole picture in its corner, DWPose the person's box and a quarter more, normalised; both BGR."""
    shown, run = [], dwpose._run
    monkeypatch.setattr(dwpose, "_run", lambda network, pixels: shown.append(pixels) or run(network, pixels))
    picture = np.zeros((640, 480, 3), np.uint8)
    picture[..., 0], picture[..., 2] = np.arange(480) // 2, 255 - np.arange(640)[:, None] // 3
    dwpose.keypoints(Image.fromarray(picture), weights)
    whole, person = shown
    assert (whole[:, :480] == picture[..., ::-1]).all() and (whole[:, 480:] == 114).all()
    x, y = np.meshgrid(90 + np.arange(288) * 300 / 288, 120 + np.arange(384) * 400 / 384)
    pixels = person * (58.395, 57.12, 57.375) + (123.675, 116.28, 103.53)
    assert np.abs(pixels[..., 2] - x / 2).max() < 1.1 and np.abs(pixels[..., 0] - (255 - y / 3)).max() < 1.1


def test_a_file_that_is_no_model_is_told(tmp_path):
    into = saved(tmp_path) / "yzd-v/DWPose"
    (into / "yolox_l.onnx").write_bytes(b"nothing")
    with pytest.raises(SceditError, match=r"yolox_l\.onnx or .* is no ONNX model"):
        conditions.annotate("pose", BLANK, weights=tmp_path)


@pytest.fixture(scope="module")
def openpose(tmp_path_factory):
    import os

    folder = tmp_path_factory.mktemp("openpose")
    annotator = conditions.find("pose").annotator("openpose")
    before = os.environ.get("XDG_CONFIG_HOME")
    os.environ["XDG_CONFIG_HOME"] = str(folder)
    licences.accept(annotator)
    yield annotator, save_weights(annotator, folder)
    if before is None:
        del os.environ["XDG_CONFIG_HOME"]
    else:
        os.environ["XDG_CONFIG_HOME"] = before


def test_openposes_three_networks_are_the_files(openpose):
    import torch

    _, folder = openpose
    loaded = pose._openpose(folder, "cpu")
    for part, place, channels in zip(
        (loaded.body_estimation, loaded.hand_estimation, loaded.face_estimation),
        pose.OPENPOSE,
        (19, 22, 71),
        strict=True,
    ):
        state = torch.load(folder / place.replace(":", "/"))
        mine = part.model.state_dict()
        assert len(mine) == len(state)
        for name, value in mine.items():
            assert torch.equal(value, state.get(name, state.get(name.split(".", 1)[1])).float())
        with torch.inference_mode():
            seen = part.model(torch.zeros(1, 3, 64, 64))
        assert (seen[-1] if isinstance(seen, tuple | list) else seen).shape[1] == channels


def test_openposes_skeleton_is_drawn_there(openpose, monkeypatch):
    annotator, folder = openpose
    module = detector("open_pose")
    body = expected()[[0 if coco is None else coco for coco in COCO]] / SIZE
    hand = expected()[91:112] / SIZE
    joints = [module.Keypoint(*place) for place in body]
    result = module.PoseResult(module.BodyResult(joints, 18.0, 18), [module.Keypoint(*p) for p in hand], None, None)
    asked = []

    def found(self, picture, include_hand, include_face):
        asked.append((picture.shape, include_hand, include_face))
        return [result]

    monkeypatch.setattr(module.OpenposeDetector, "detect_poses", found)
    make = annotator.load(annotator.settings(resolution=448, hands=False), folder)
    picture = np.asarray(make([BLANK])[0])
    assert asked == [((576, 448, 3), False, True)]
    assert picture.shape == (640, 480, 3)
    for (x, y), color in list(zip(body * SIZE, COLORS, strict=True))[2:]:  # the neck lies on the nose here
        assert np.abs(picture[int(y), int(x)].astype(int) - color).max() < 40  # resized
    with_hands = np.asarray(annotator.load(annotator.settings(resolution=448, body="no"), folder)([BLANK])[0])
    x, y = (hand[0] * SIZE).astype(int)
    assert not picture[y, x].any() or tuple(picture[y, x]) != tuple(with_hands[y, x])
    assert with_hands[y, x, 2] > 200
