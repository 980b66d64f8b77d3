"""A sample workflow for ComfyUI, in the JSON that its canvas opens (version 0.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_WIDE, _HIGH, _GAP = 320, 120, 60  # of a node on the canvas, in its units
_OUTPUTS = {
    "CheckpointLoaderSimple": ("MODEL", "CLIP", "VAE"),
    "LoadSCEditTuner": ("SCEDIT_TUNER",),
    "ApplySCEdit": ("MODEL",),
    "LoadImage": ("IMAGE", "MASK"),
    "JoinImageWithAlpha": ("IMAGE",),
    "CLIPTextEncode": ("CONDITIONING",),
    "EmptyLatentImage": ("LATENT",),
    "KSampler": ("LATENT",),
    "VAEDecode": ("IMAGE",),
    "SaveImage": (),
}

Slot = tuple[int, int]  # a node's number, and that of its output


class _Canvas:
    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []

    def add(self, kind: str, column: int, row: int, widgets: Sequence[Any] = (), **inputs: Slot) -> Slot:
        """Add a node whose inputs are fed by these outputs, and return its first output."""
        number = len(self.nodes) + 1
        fed = []
        for place, (name, (source, output)) in enumerate(inputs.items()):
            of = self.nodes[source - 1]["outputs"][output]
            self.links.append([len(self.links) + 1, source, output, number, place, of["type"]])
            of["links"].append(len(self.links))
            fed.append({"name": name, "type": of["type"], "link": len(self.links)})
        self.nodes.append(
            {
                "id": number,
                "type": kind,
                "pos": [column * (_WIDE + _GAP), row * (_HIGH + _GAP)],
                "size": [_WIDE, _HIGH],
                "flags": {},
                "order": number - 1,
                "mode": 0,
                "inputs": fed,
                "outputs": [
                    {"name": name, "type": name, "links": [], "slot_index": place}
                    for place, name in enumerate(_OUTPUTS[kind])
                ],
                "properties": {"Node name for S&R": kind},
                "widgets_values": list(widgets),
            }
        )
        return number, 0


def workflow(tuners: Sequence[tuple[str, str | None, int]], checkpoint: str = "model.safetensors") -> dict[str, Any]:
    """Return a workflow that draws an image with these tuners, one node after another.

    Args:
        tuners: each one's file name in the loader's list, its condition (None for an SC-Tuner), its hint's channels.
        checkpoint: the base's file name in ComfyUI's list of checkpoints.
    """
    canvas = _Canvas()
    checkpoint_node, _ = canvas.add("CheckpointLoaderSimple", 0, 0, [checkpoint])
    model = (checkpoint_node, 0)
    for row, (file, condition, channels) in enumerate(tuners):
        inputs = {"model": model, "tuner": canvas.add("LoadSCEditTuner", 1, 2 * row, [file])}
        if condition:
            image, _ = canvas.add("LoadImage", 0, 2 * row + 2, [f"{condition}.png", "image"])
            inputs["hint"] = (image, 0)
            if channels == 4:
                inputs["hint"] = canvas.add("JoinImageWithAlpha", 1, 2 * row + 1, image=(image, 0), alpha=(image, 1))
        model = canvas.add("ApplySCEdit", 2, 2 * row, [1.0, 0.0, 1.0], **inputs)
    clip = (checkpoint_node, 1)
    canvas.add(
        "KSampler",
        4,
        0,
        [0, "fixed", 20, 7.0, "euler", "normal", 1.0],
        model=model,
        positive=canvas.add("CLIPTextEncode", 3, 0, ["a photograph"], clip=clip),
        negative=canvas.add("CLIPTextEncode", 3, 2, [""], clip=clip),
        latent_image=canvas.add("EmptyLatentImage", 3, 4, [512, 512, 1]),
    )
    drawn = (len(canvas.nodes), 0)
    canvas.add(
        "SaveImage", 5, 2, ["scedit"], images=canvas.add("VAEDecode", 5, 0, samples=drawn, vae=(checkpoint_node, 2))
    )
    return {
        "last_node_id": len(canvas.nodes),
        "last_link_id": len(canvas.links),
        "nodes": canvas.nodes,
        "links": canvas.links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }
