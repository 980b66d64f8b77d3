"""People's keypoints by DWPose, in OpenPose's order, and their drawing."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scedit_cli.conditions.detectors import detector
from scedit_cli.conditions.silence import silent
from scedit_cli.conditions.weights import weights_file
from scedit_cli.errors import SceditError, not_installed

WEIGHTS = ("yzd-v/DWPose:yolox_l.onnx", "yzd-v/DWPose:dw-ll_ucoco_384.onnx")
_BODY, _FACE, _HANDS = slice(0, 18), slice(24, 92), slice(92, 134)  # 18 to 23 are the feet, which are not drawn


def keypoints(picture: Image.Image, weights: Path | None = None, device: str = "cpu") -> np.ndarray:
    """(N, 134, 3) float32 for N people: x and y in pixels, and confidence. The first 18 are OpenPose's body, then 6 of
    the feet, 68 of the face, 21 of the left and 21 of the right hand (Yang et al., ICCVW 2023).

    Raises:
        SceditError: rtmlib is not installed, or `weights` has none.
        WorkFailed: the hub cannot be reached.
    """
    find, estimate = models(weights, device)
    pixels = np.ascontiguousarray(np.asarray(picture.convert("RGB"))[..., ::-1])
    boxes, classes = find(pixels)
    boxes = boxes[classes == 0]  # COCO's person
    if not len(boxes):  # the estimator would take the whole picture for a person
        return np.zeros((0, 134, 3), np.float32)
    places, confidence = estimate(pixels, bboxes=boxes)
    return np.dstack((places, confidence)).astype(np.float32)


def drawn(
    people: np.ndarray,
    size: tuple[int, int],
    canvas: tuple[int, int],
    threshold: float = 0.3,
    body: bool = True,
    hands: bool = True,
    face: bool = True,
) -> np.ndarray:
    """People as ControlNet's pose: limbs and joints in OpenPose's colours on black.

    Args:
        people: (N, 134, 3), as `keypoints` gives them.
        size: width and height of the picture that they were found in.
        canvas: width and height of what is drawn, where joints are 8 pixels wide.
        threshold: the least confidence of a keypoint that is drawn.

    Returns:
        uint8 (height, width, 3).
    """
    util = detector("dwpose.util")
    drawing = np.zeros((canvas[1], canvas[0], 3), np.uint8)
    places = np.where(people[..., 2:] > threshold, people[..., :2] / size, -1)
    if body and len(people):
        joints = places[:, _BODY]
        numbers = np.arange(joints[..., 0].size).reshape(joints.shape[:2])
        drawing = util.draw_bodypose(drawing, joints.reshape(-1, 2), np.where(joints[..., 0] >= 0, numbers, -1))
    if hands:
        drawing = util.draw_handpose(drawing, places[:, _HANDS].reshape(-1, 21, 2))
    if face:
        drawing = util.draw_facepose(drawing, places[:, _FACE])
    return drawing


def runs_on(device: str) -> bool:
    """Whether onnxruntime computes on the device of this name (PyTorch's): that for CPUs, which the extra brings, does
    not know CUDA."""
    try:
        import onnxruntime
    except ImportError:
        return False
    return device.startswith("cuda") and "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@lru_cache(maxsize=1)
def models(weights: Path | None, device: str) -> tuple[Any, Any]:
    """The finder of people, YOLOX, and the estimator of their keypoints; loaded once.

    Raises:
        SceditError, WorkFailed: as `keypoints`.
    """
    try:
        import onnxruntime
        import rtmlib
    except ImportError as error:
        otherwise = "make it with scedit annotate --annotator openpose"
        raise not_installed("pose by dwpose", error.name, "pose", otherwise) from error
    onnxruntime.set_default_logger_severity(3)
    device = device if runs_on(device) else "cpu"
    finder, estimator = (str(weights_file(place, weights, WEIGHTS)) for place in WEIGHTS)
    try:
        with silent():
            find = rtmlib.YOLOX(finder, (640, 640), det_mode="multiclass", score_thr=0.3, device=device)
            return find, rtmlib.RTMPose(estimator, (288, 384), to_openpose=True, device=device)
    except Exception as error:  # onnxruntime's own kinds of error, for a file that is no model
        raise SceditError(f"{finder} or {estimator} is no ONNX model: {error}") from error
