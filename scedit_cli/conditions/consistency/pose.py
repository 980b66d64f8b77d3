"""Poses: skeletons read from their drawing, and the similarity of their keypoints."""

from __future__ import annotations

import numpy as np
from PIL import Image

from scedit_cli.conditions.consistency.measure import Figures, Measure

# OpenPose's 18 keypoints: nose, neck, right shoulder, elbow, wrist, left ones, right hip, knee, ankle, left ones, eyes,
# ears. The list has a colour for each keypoint, and for the limb at the same place in LIMBS at 0.6 of its brightness.
COLOURS = np.array(
    [
        (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
        (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255),
        (255, 0, 255), (255, 0, 170), (255, 0, 85),
    ],
    np.int16,
)  # fmt: skip
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
# COCO's falloff constants. COCO has no neck, so the neck has the shoulders' constant.
_SIGMAS = np.array(
    [0.026, 0.079, *(0.079, 0.072, 0.062) * 2, *(0.107, 0.087, 0.089) * 2, 0.025, 0.025, 0.035, 0.035]
)
_BODY_SHARE = 0.53  # the share of its box that a body fills, as in CrowdPose's evaluation
_NEAR = 42  # levels, half of the difference between neighbouring colours
_LIMB_SHOWN = 0.5  # the least share of a limb's middle that is drawn in its colour


def keypoint_similarity(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the object keypoint similarity in [0, 1] of one skeleton to another, (18, 2) pixels, NaN where unseen: the
    mean over the keypoints of `wanted` of exp(-d² / (2·s²·k²)), s² the body's area and k = 2σ (COCO's keypoint
    evaluation, after Ruggero Ronchi and Perona, ICCV 2017). A keypoint that `found` lacks counts 0."""
    seen = ~np.isnan(wanted[:, 0])
    extent = np.nanmax(wanted, 0) - np.nanmin(wanted, 0)
    area = max(_BODY_SHARE * extent[0] * extent[1], 1.0)
    squared = np.square(found - wanted).sum(-1)[seen]
    similar = np.exp(-squared / (2 * area * np.square(2 * _SIGMAS[seen])))
    return float(np.nan_to_num(similar).mean())


def pose_similarity(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """Return the mean keypoint similarity of the best pairing of skeletons; unpaired ones count 0. Two images without
    people score 1."""
    from scipy.optimize import linear_sum_assignment

    if not found or not wanted:
        return float(not found and not wanted)
    table = np.array([[keypoint_similarity(one, other) for one in found] for other in wanted])
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / max(len(found), len(wanted)))


def skeletons(image: np.ndarray) -> list[np.ndarray]:
    """Return the skeletons (18, 2) in an OpenPose drawing, uint8 RGB (H, W, 3): x and y in pixels, NaN where unseen.

    A keypoint's disc is recognised by its colour; two belong to one body where the limb between them is drawn. Discs
    without a limb, such as those of hands and faces, are left out.
    """
    pixels = image.astype(np.int16)
    discs = [_discs(np.abs(pixels - colour).max(-1) <= _NEAR) for colour in COLOURS]
    bodies: list[dict[int, int]] = []
    for (one, other), colour in zip(LIMBS, COLOURS[: len(LIMBS)], strict=True):
        shown = {
            (i, j): _share_shown(pixels, a, b, (colour * 0.6, COLOURS[one], COLOURS[other]))
            for i, a in enumerate(discs[one])
            for j, b in enumerate(discs[other])
        }
        used: set[tuple[int, int]] = set()
        for (i, j), share in sorted(shown.items(), key=lambda item: -item[1]):
            if share >= _LIMB_SHOWN and not used & {(one, i), (other, j)}:
                used |= {(one, i), (other, j)}
                _join(bodies, {one: i, other: j})
    found = []
    for body in bodies:
        skeleton = np.full((len(COLOURS), 2), np.nan)
        for joint, number in body.items():
            skeleton[joint] = discs[joint][number]
        found.append(skeleton)
    return found


def _discs(mask: np.ndarray) -> list[np.ndarray]:
    """Return the centres (x, y) of the connected parts of at least 4 pixels."""
    import cv2

    count, _, stats, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return [centres[k] for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] >= 4]


def _share_shown(
    pixels: np.ndarray, start: np.ndarray, end: np.ndarray, colours: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> float:
    """Return the share of the line between two discs that has the limb's colour or theirs, since discs cover short
    limbs."""
    along = start + np.linspace(0.2, 0.8, 13)[:, None] * (end - start)
    x, y = np.rint(along).astype(int).T
    return float(np.any([np.abs(pixels[y, x] - colour).max(-1) <= _NEAR for colour in colours], 0).mean())


def _join(bodies: list[dict[int, int]], limb: dict[int, int]) -> None:
    """Add a limb to the body that has one of its ends; join two bodies that have one end each."""
    mine = [body for body in bodies if any(body.get(joint) == number for joint, number in limb.items())]
    merged = {joint: number for body in (*mine, limb) for joint, number in body.items()}
    bodies[:] = [body for body in bodies if body not in mine] + [merged]


def _figures(found: Image.Image, wanted: Image.Image) -> Figures:
    return {"oks": pose_similarity(*(skeletons(np.asarray(image.convert("RGB"))) for image in (found, wanted)))}


POSE = Measure(_figures, lambda figures: figures["oks"])
