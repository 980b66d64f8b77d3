"""ONNX graphs with the names and shapes of YOLOX and DWPose that see, whatever they are shown, the same person."""

from __future__ import annotations

from pathlib import Path

import numpy as np

JOINTS = 133  # COCO-WholeBody: 17 body, 6 feet, 68 face, 21 left hand, 21 right hand
INPUT = (384, 288)  # height and width of what DWPose is shown


def places() -> np.ndarray:
    """(133, 2): x and y of each keypoint in DWPose's picture, all different."""
    number = np.arange(JOINTS)
    return np.stack((40 + number % 12 * 18, 40 + number // 12 * 24), axis=1)


Box = tuple[float, float, float, float]


def save_finder(path: Path, *boxes: Box, label: int = 0) -> None:
    """A YOLOX of 640 pixels that finds things of COCO's class `label`, the first surest; a box is centre and size in
    its pixels."""
    rows = np.zeros((1, 8400, 85), np.float32)
    for cell, (x, y, wide, high) in enumerate(boxes or [(320, 320, 320, 480)]):  # of the first grid, whose stride is 8
        rows[0, cell, :4] = x / 8 - cell, y / 8, np.log(wide / 8), np.log(high / 8)
        rows[0, cell, 4], rows[0, cell, 5 + label] = 1, 1 - cell / 10
    _save(path, {"images": (1, 3, 640, 640)}, {"output": rows})


def save_estimator(path: Path, confidence: float = 1.0) -> None:
    """A DWPose that sees the keypoints at `places`, surer of how far across they are than of how far down."""
    x = np.zeros((1, JOINTS, INPUT[1] * 2), np.float32)
    y = np.zeros((1, JOINTS, INPUT[0] * 2), np.float32)
    for joint, (across, down) in enumerate(places()):
        x[0, joint, across * 2], y[0, joint, down * 2] = 2 * confidence, confidence
    _save(path, {"input": (1, 3, *INPUT)}, {"simcc_x": x, "simcc_y": y})


def _save(path: Path, inputs: dict[str, tuple[int, ...]], outputs: dict[str, np.ndarray]) -> None:
    """A graph that adds nothing of its input to constants: the input is read, and its size checked."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    [(name, shape)] = inputs.items()
    nodes = [
        helper.make_node("ReduceMean", [name], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    constants = [numpy_helper.from_array(np.float32(0), "zero")]
    for output, values in outputs.items():
        constants.append(numpy_helper.from_array(values, f"{output}_values"))
        nodes.append(helper.make_node("Add", [f"{output}_values", "nothing"], [output]))
    graph = helper.make_graph(
        nodes,
        "person",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, values.shape) for o, values in outputs.items()],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
