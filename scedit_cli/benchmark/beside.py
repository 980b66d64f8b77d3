"""What a card holds beside the tensors of a step: the allocator's reserve, and encoders in the training loop.

Published measurements are what a card holds; `estimate` counts tensors of a step on cached latents and texts.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scedit_cli.benchmark.allocator import Reserved
from scedit_cli.benchmark.architecture import Architecture
from scedit_cli.benchmark.estimate import boundary, faked
from scedit_cli.benchmark.methods import Options, prepared
from scedit_cli.benchmark.step import loss_of, new_optimizer, random_batch
from scedit_cli.models.base import DTYPES
from scedit_cli.models.loading import quiet
from scedit_cli.models.single_file import CONFIGS
from scedit_cli.scenes import WORLD
from scedit_cli.training.memory_tracker import CudaAutocast, tensors_of
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.hub import download_configs, split_revision
from scedit_cli.utils.io import expanded, read_json
from scedit_cli.utils.names import EMBEDDED, PUBLIC


@dataclass(frozen=True)
class Loop:
    """What a program's training loop does otherwise than `estimate`.

    Attributes:
        parts: of PARTS, the encoders that stay on the card in the base's dtype; "vae" encodes each batch.
        amp: the dtype of autocast, by default the base's own; float32 weights under autocast have copies in it.
        matrices: whether attention keeps its matrices for the backward pass, as PyTorch before 2.0 did.
    """

    parts: tuple[str, ...] = ()
    amp: str | None = None
    matrices: bool = False


PARTS = ("vae", "text")  # encoders that some programs call at each training step
_STEPS = 2  # the second finds the segments that the first has left


def held(
    method: str,
    base: Architecture,
    batch: int,
    resolution: int,
    dtype: str,
    loop: Loop = Loop(),
    *,
    device: str = "cuda",
    options: Options | None = None,
) -> dict[str, int]:
    """Return the bytes of an accelerator that PyTorch holds after two steps of a method, by category: those of a
    step's tensors at their peak, the encoders' weights ("vae", "text"), and "reserve" for the rest of the segments.

    Args:
        method, base, batch, resolution, dtype, options: as for `estimate`.
        loop: what the training loop does besides.
        device: "cuda" or "cpu", which decides autocast and attention.

    Raises:
        SceditError: the base's files do not describe a part.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    precision, amp = DTYPES[dtype], loop.amp or dtype
    unet = base.on_meta(precision)
    base.match_attention(unet, device)
    if loop.matrices:
        from diffusers.models.attention_processor import AttnProcessor

        unet.set_attn_processor(AttnProcessor())
    inputs, noise = random_batch(base, batch, resolution, precision, "meta")
    encoders = {
        part: [_encoder(name, config, precision) for name, config in _configs(base.name, part)] for part in loop.parts
    }
    with torch.random.fork_rng(devices=[]), prepared(method, unet, options) as trainable:
        with FakeTensorMode(allow_non_fake_inputs=True):
            for part in (*trainable.parts, *(each for several in encoders.values() for each in several)):
                part.to_empty(device="cpu")
            live = Reserved("activations")
            with boundary(trainable, options, live), live:
                live.own("weights", tensors_of(trainable.parts))
                for part, several in encoders.items():
                    live.own(part, tensors_of(several))
                live.own_gradients(trainable.weights)
                inputs, noise = faked(inputs), faked(noise)
                pictures = torch.empty(batch, 3, resolution, resolution, dtype=precision)
                with live.labelled("optimizer"):
                    optimizer = new_optimizer(trainable)
                for _ in range(_STEPS):
                    for vae in encoders.get("vae", ()):
                        with torch.no_grad():
                            vae.encode(pictures)
                    with CudaAutocast() if device == "cuda" else nullcontext():
                        with torch.autocast("cpu", DTYPES[amp], enabled=amp != "fp32"):
                            loss = loss_of(trainable, inputs, noise, base)
                        loss.backward()
                        del loss
                        with live.labelled("optimizer"):
                            optimizer.step()
                    optimizer.zero_grad()
    return live.at_peak | {"reserve": live.allocator.reserved - live.peak}


def _encoder(name: str, config: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    """Return an encoder on the meta device, frozen."""
    import diffusers
    import transformers

    with quiet(), torch.device("meta"):
        if name == "vae":
            made = getattr(diffusers, config.get("_class_name", "AutoencoderKL")).from_config(config)
        else:
            kind = getattr(transformers, config.get("architectures", ["CLIPTextModel"])[0])
            made = kind(kind.config_class(**config))
        return made.to(dtype).requires_grad_(False).eval()


def _configs(model: str, part: str) -> list[tuple[str, dict[str, Any]]]:
    """Return (name, configuration) of the encoders of a part: SDXL has two text encoders."""
    names = ("vae",) if part == "vae" else ("text_encoder", "text_encoder_2")
    folder = WORLD / "base" if model == EMBEDDED else CONFIGS / model if model in PUBLIC else expanded(model)
    if folder.is_file():
        raise SceditError(
            f"the {part} of {model} is not estimated: it is a single file", hint="name sd15, sd21, sdxl or a folder"
        )
    if not folder.exists():
        folder = download_configs(*split_revision(model))
    places = {name: _place(folder, name) for name in names}
    found = [(name, read_json(place.read_text("utf-8"))) for name, place in places.items() if place.is_file()]
    if not found:
        raise SceditError(f"{model} does not describe its {names[0]}", hint=f"leave {part} out")
    return found


def _place(folder: Path, name: str) -> Path:
    return folder / f"{name}.json" if (folder / "unet.json").is_file() else folder / name / "config.json"
