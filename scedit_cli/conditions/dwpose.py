"""Human keypoints by DWPose, in OpenPose's order, and their drawing."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from scedit_cli.conditions.detectors import detector
from scedit_cli.conditions.weights import weights_file
from scedit_cli.utils.errors import SceditError, not_installed

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

WEIGHTS = ("yzd-v/DWPose:yolox_l.onnx", "yzd-v/DWPose:dw-ll_ucoco_384.onnx")
_SEEN, _STRIDES = 640, (8, 16, 32)  # pixels: the side of YOLOX's input, and of the cells of its grids
_SURE, _OVERLAP = 0.3, 0.45  # the least confidence of a person; the overlap from which two boxes are one person
_SHOWN, _MARGIN = (288, 384), 1.25  # width and height of DWPose's input, a person's box enlarged by the margin
_MEAN, _DEVIATION = np.array((123.675, 116.28, 103.53)), np.array((58.395, 57.12, 57.375))  # as DWPose was trained
_OPENPOSE = (0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)  # its body by COCO's places; 17 is the neck
_BODY, _FACE, _HANDS = slice(0, 18), slice(24, 92), slice(92, 134)  # 18 to 23 are the feet, which are not drawn


def keypoints(image: Image.Image, weights: Path | None = None, device: str = "cpu") -> np.ndarray:
    """Return the keypoints of N people, float32 (N, 134, 3): x and y in pixels, and confidence. The first 18 are
    OpenPose's body, then 6 of the feet, 68 of the face, 21 of the left and 21 of the right hand (Yang et al., ICCVW
    2023).

    Raises:
        SceditError: onnxruntime is not installed, or the folder `weights` lacks the files.
        WorkFailed: the hub cannot be reached.
    """
    finder, estimator = models(weights, device)
    pixels = np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
    people = [_estimated(estimator, pixels, box) for box in _found(finder, pixels)]
    if not people:
        return np.zeros((0, 134, 3), np.float32)
    joints = np.stack(people)
    shoulders = joints[:, 5:7]
    neck = np.concatenate([shoulders[..., :2].mean(1), shoulders[..., 2].min(1, keepdims=True)], axis=-1)
    return np.insert(joints, 17, neck, axis=1)[:, [*_OPENPOSE, *range(18, 134)]].astype(np.float32)


def _found(finder: InferenceSession, pixels: np.ndarray) -> np.ndarray:
    """Return the boxes (N, 4) (left, top, right, bottom) of people in `pixels` (BGR), the most confident first.

    YOLOX (Ge et al., arXiv 2107.08430) gives for each cell of three grids an object's centre in it and the logarithm of
    its size, both in cells, the confidence that there is an object, and that of each class.
    """
    import cv2
    import torch
    from torchvision.ops import nms

    high, wide = pixels.shape[:2]
    ratio = min(_SEEN / high, _SEEN / wide)
    shown = np.full((_SEEN, _SEEN, 3), 114, np.uint8)
    small = cv2.resize(pixels, (int(wide * ratio), int(high * ratio)), interpolation=cv2.INTER_LINEAR)
    shown[: small.shape[0], : small.shape[1]] = small
    [things] = _run(finder, shown)[0]
    sides = [_SEEN // stride for stride in _STRIDES]
    cells = np.concatenate([np.stack(np.meshgrid(*[np.arange(side)] * 2), -1).reshape(-1, 2) for side in sides])
    strides = np.repeat(_STRIDES, [side**2 for side in sides])[:, None]
    sureness = things[:, 4] * things[:, 5]  # an object, times COCO's first class, a person
    is_sure = sureness > _SURE
    centre = ((things[:, :2] + cells) * strides)[is_sure] / ratio
    half = (np.exp(things[is_sure, 2:4]) * strides[is_sure]) / (2 * ratio)
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    return boxes[nms(torch.from_numpy(boxes), torch.from_numpy(sureness[is_sure]).double(), _OVERLAP).numpy()]


def _estimated(estimator: InferenceSession, pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return COCO-WholeBody's keypoints (133, 3) (x, y, confidence) of the person in `box`, by DWPose, which scores
    every half pixel across and down for each keypoint (SimCC; Li et al., arXiv 2107.03332); the confidence is the
    lesser score, as in mmpose."""
    import cv2

    shown = np.array(_SHOWN)
    centre, size = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * _MARGIN
    size = shown * (size / shown).max()  # the network's aspect ratio, containing the whole box
    scale = _SHOWN[0] / size[0]
    move = np.column_stack([np.eye(2) * scale, shown / 2 - scale * centre])
    person = (cv2.warpAffine(pixels, move, _SHOWN, flags=cv2.INTER_LINEAR) - _MEAN) / _DEVIATION
    across, down = (axis[0] for axis in _run(estimator, person))
    confidence = np.minimum(across.max(1), down.max(1))
    places = np.column_stack([across.argmax(1), down.argmax(1)]) / 2
    places[confidence <= 0] = -0.5
    return np.column_stack([places / shown * size + centre - size / 2, confidence])


def _run(network: InferenceSession, pixels: np.ndarray) -> list[np.ndarray]:
    """Return the network's outputs for `pixels` (H, W, 3)."""
    values = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)
    return network.run(None, {network.get_inputs()[0].name: values})


def drawn(
    people: np.ndarray,
    size: tuple[int, int],
    canvas: tuple[int, int],
    threshold: float = 0.3,
    body: bool = True,
    hands: bool = True,
    face: bool = True,
) -> np.ndarray:
    """Draw people as ControlNet's pose: limbs and joints in OpenPose's colours on black.

    Args:
        people: (N, 134, 3), as `keypoints` returns them.
        size: width and height of the image in which they were detected.
        canvas: width and height of the drawing, in which joints are 8 pixels wide.
        threshold: the least confidence of a keypoint that is drawn.
        body, hands, face: whether these parts are drawn.

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
    """Return whether onnxruntime computes on the device of this name (PyTorch's). The CPU build, which the extra
    installs, lacks CUDA."""
    try:
        import onnxruntime
    except ImportError:
        return False
    return device.startswith("cuda") and "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@lru_cache(maxsize=1)
def models(weights: Path | None, device: str) -> tuple[InferenceSession, InferenceSession]:
    """Load, once, the detector of people (YOLOX) and the estimator of their keypoints (DWPose).

    Raises:
        SceditError, WorkFailed: as in `keypoints`; or a file is no ONNX model.
    """
    try:
        import onnxruntime
    except ImportError as error:
        otherwise = "make it with `annotate(annotator=openpose)`"
        raise not_installed("pose by dwpose", error.name, "pose", otherwise) from error
    onnxruntime.set_default_logger_severity(3)
    number = int(device.partition(":")[2] or 0)
    provider = ("CUDAExecutionProvider", {"device_id": number}) if runs_on(device) else "CPUExecutionProvider"
    finder, estimator = (str(weights_file(place, weights, WEIGHTS)) for place in WEIGHTS)
    try:
        return tuple(onnxruntime.InferenceSession(file, providers=[provider]) for file in (finder, estimator))
    except Exception as error:  # onnxruntime has error classes of its own for a file that is no model
        raise SceditError(f"{finder} or {estimator} is no ONNX model: {error}") from error
