"""Human poses: bodies, hands and faces as OpenPose draws them."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import Field

from scedit_cli.conditions.consistency.pose import POSE
from scedit_cli.conditions.detectors import Detection, detected, detector, fitted
from scedit_cli.conditions.dwpose import WEIGHTS, drawn, keypoints, models, runs_on
from scedit_cli.conditions.looks import Look
from scedit_cli.conditions.registry import Annotator, Kind, Make
from scedit_cli.conditions.weights import filled, state_of

_REPOSITORY = "lllyasviel/Annotators"
OPENPOSE = tuple(f"{_REPOSITORY}:{name}" for name in ("body_pose_model.pth", "hand_pose_model.pth", "facenet.pth"))


class Parts(Detection):
    """`body`, `hands` and `face` are the parts of a person that are drawn, at `resolution`."""

    body: bool = True
    hands: bool = True
    face: bool = True


class Confident(Parts):
    """`threshold` is the least confidence of a keypoint that is drawn."""

    threshold: float = Field(0.3, ge=0, lt=1)


def by_dwpose(parameters: Confident, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that draws poses by DWPose, which sees images at their own size, in mode RGB."""
    models(weights, device)  # missing weights raise before the first image

    def one(image: Image.Image) -> Image.Image:
        scale = parameters.resolution / min(image.size)
        canvas = (round(image.width * scale), round(image.height * scale))
        people = keypoints(image, weights, device)
        options = parameters.model_dump(exclude={"resolution"})
        return fitted(Image.fromarray(drawn(people, image.size, canvas, **options)), image.size)

    return lambda images: [one(image) for image in images]


def by_openpose(parameters: Parts, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that draws poses by OpenPose (Cao et al., IEEE PAMI 2019), in mode RGB."""
    shown = {"include_body": parameters.body, "include_hand": parameters.hands, "include_face": parameters.face}
    return detected(partial(_openpose(weights, device), **shown), parameters.resolution)


@lru_cache(maxsize=1)
def _openpose(weights: Path | None, device: str) -> Any:
    """Load controlnet_aux's OpenposeDetector, once. The constructors of its three parts would load their files without
    our checks, so the parts are created without them and get their networks here."""
    module, networks = detector("open_pose"), detector("open_pose.model")
    parts = []
    for part, network, place in zip(
        (module.Body, module.Hand, module.Face),
        (networks.bodypose_model, networks.handpose_model, detector("open_pose.face").FaceNet),
        OPENPOSE,
        strict=True,
    ):
        state, empty = state_of(place, weights, OPENPOSE), network()
        if part is not module.Face:  # the other two files lack the stage before each name
            names = {name: name.split(".", 1)[1] for name in empty.state_dict()}
            state = {name: state[short] for name, short in names.items() if short in state}
        made = part.__new__(part)
        made.model = filled(empty, state, place, device)
        parts.append(made)
    return module.OpenposeDetector(*parts)


KIND = Kind(
    "pose",
    (
        Annotator("pose", "dwpose", "onnxruntime", by_dwpose, WEIGHTS, parameters=Confident, can_use=runs_on),
        Annotator(
            "pose", "openpose", "controlnet_aux", by_openpose, OPENPOSE, "CMU's own, no commercial use", False, Parts
        ),
    ),
    POSE,
    look=Look(on_black=True),
)
