"""Checkpoints in the original layout, one .safetensors file, read with the configurations in the package."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from scedit_cli.errors import SceditError, not_loaded, reason
from scedit_cli.files import check_fetched

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import CLIPTokenizer

CONFIGS = Path(__file__).parent / "configs"
_UNET_INPUT = "model.diffusion_model.input_blocks.0.0.weight"
# How the text encoders' weights are called tells the family.
_TEXT_ENCODERS = {
    "sdxl": "conditioner.embedders.1.model.",
    "sd21": "cond_stage_model.model.",
    "sd15": "cond_stage_model.transformer.",
}
_MODELSPEC = {"v": "v_prediction", "epsilon": "epsilon"}
PREDICTIONS = tuple(sorted(_MODELSPEC.values()))
# Weights that are stored as whole numbers or in 8 bits, to be multiplied by a scale of their own.
_QUANTISED = re.compile(r"scaled_fp8|.+\.(scale_weight|weight_scale(_2)?|comfy_quant|absmax|quant_map|quant_state\..+)")
_SD21_BASE = {"sample_size": 64}  # the release that predicts noise is for 512 pixels


def open_original(file: Path, dtype: torch.dtype, prediction: str | None = None) -> DiffusionPipeline:
    """The pipeline of a single file of SD1.5, SD2.1 or SDXL: its autoencoder in float32, the rest in `dtype`.

    The U-Net's channels, its mid block and how deep its attention is are read off the weights, so that inpainting and
    pruned U-Nets (SSD-1B, Vega) load too. SD2.1 is taken for a v-prediction model, as its 768-pixel release is, unless
    `prediction`, the file's own `modelspec` metadata or a marker among its weights says otherwise.

    Raises:
        SceditError: a pickled or damaged file, one of another layout, or one that is not whole.
    """
    from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline

    family, changes = _told_apart(file, prediction)
    if family == "sdxl":
        kind, parts = StableDiffusionXLPipeline, {"tokenizer_2": tokenizer(pad="!"), "add_watermarker": False}
    else:
        kind = StableDiffusionPipeline
        parts = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    with TemporaryDirectory() as folder:
        _write_configs(Path(folder), family, kind.__name__, changes)
        options = {"config": folder, "local_files_only": True}
        hint = "get it anew, or give the model as a diffusers folder"
        try:
            vae = AutoencoderKL.from_single_file(str(file), subfolder="vae", dtype=torch.float32, **options)
            pad = "!" if family == "sd21" else "<|endoftext|>"
            return kind.from_single_file(
                str(file), dtype=dtype, vae=vae, tokenizer=tokenizer(pad), **parts, **options
            )
        except Exception as error:  # diffusers raises whatever odd weights lead it to
            if "meta tensor" in str(error):  # PyTorch's word for weights that no file has filled
                missing = f"base {file}: weights that a checkpoint of {family} has are missing"
                raise SceditError(missing, hint) from error
            raise not_loaded(error, f"base {file}: not as a checkpoint of {family} should be", hint) from error


def original_config(file: Path, part: str) -> dict[str, Any]:
    """The configuration of a part of a single file, "unet" or "scheduler", told by its header: no weight is read.

    Raises:
        SceditError: as for `open_original`.
    """
    family, changes = _told_apart(file)
    return json.loads((CONFIGS / family / f"{part}.json").read_text()) | changes.get(part, {})


def _told_apart(file: Path, prediction: str | None = None) -> tuple[str, dict[str, dict[str, Any]]]:
    """The family of a single file, and by part what differs from the family's configuration."""
    from safetensors import SafetensorError, safe_open

    if file.suffix != ".safetensors":
        raise SceditError(
            f"base {file}: only .safetensors files are read, a pickle may run code",
            hint="convert it, or get it in that format",
        )
    check_fetched(file, f"base {file}")
    try:
        with safe_open(file, "pt") as checkpoint:
            keys = set(checkpoint.keys())
            channels = checkpoint.get_slice(_UNET_INPUT).get_shape()[1] if _UNET_INPUT in keys else 0
    except (SafetensorError, OSError, RuntimeError, ValueError, IndexError) as error:
        raise SceditError(f"base {file}: a damaged file: {reason(error)}", hint="get it anew") from error
    if scaled := min(filter(_QUANTISED.fullmatch, keys), default=None):
        raise SceditError(
            f"base {file}: its weights are quantised, with scales of their own ({scaled}), which are not read",
            hint="get its fp16 file; plain fp8 files are read too",
        )
    family = _family(keys) if channels else None
    if family is None:
        raise SceditError(
            f"base {file}: no whole checkpoint of SD1.5, SD2.1 or SDXL in the original layout",
            hint="give a file with U-Net, autoencoder and text encoder, or a diffusers folder",
        )

    unet = json.loads((CONFIGS / family / "unet.json").read_text())
    changes: dict[str, dict] = {"unet": {"in_channels": channels} | _pruning(keys, unet)}
    if prediction := prediction or said_prediction(file):
        changes["scheduler"] = {"prediction_type": prediction}
        if family == "sd21" and prediction == "epsilon" and unet["sample_size"] == 96:
            changes["unet"] |= _SD21_BASE
    if "ztsnr" in keys:
        changes["scheduler"] = changes.get("scheduler", {}) | {"rescale_betas_zero_snr": True}
    return family, changes


def said_prediction(file: Path) -> str | None:
    """What a checkpoint says that its U-Net predicts: by its `modelspec` metadata, or by the empty tensors v_pred and
    ztsnr, as finetuners mark SDXL files."""
    from safetensors import safe_open

    with safe_open(file, "pt") as checkpoint:
        marked = "v_prediction" if "v_pred" in checkpoint.keys() else None  # noqa: SIM118
        return _MODELSPEC.get((checkpoint.metadata() or {}).get("modelspec.prediction_type", ""), marked)


def tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's tokenizer: byte pairs, 49,408 words. `pad` fills up to 77 tokens."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    with gzip.open(CONFIGS / "clip" / "merges.txt.gz", "rt", encoding="utf-8") as lines:
        merges = [tuple(line.split()) for line in lines]
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=77)


def _pruning(keys: set[str], unet: dict) -> dict[str, Any]:
    """What the U-Net with these weights lacks of the family's configuration `unet`."""
    changes: dict[str, Any] = {}
    if not any(key.startswith("model.diffusion_model.middle_block.") for key in keys):
        changes["mid_block_type"] = None
    layers, levels = unet["layers_per_block"], len(unet["block_out_channels"])
    down = [_depths(keys, "input", 1 + level * (layers + 1), layers) for level in range(levels)]
    up = [_depths(keys, "output", level * (layers + 1), layers + 1) for level in range(levels)]
    usual = unet.get("transformer_layers_per_block", 1)
    usual = [usual] * levels if isinstance(usual, int) else usual
    if any(set(found) - {0, depth} for found, depth in zip(down, usual, strict=True)) or any(
        set(found) - {0, depth} for found, depth in zip(up, reversed(usual), strict=True)
    ):
        changes["transformer_layers_per_block"] = [_one(found) for found in down]
        changes["reverse_transformer_layers_per_block"] = [_one(found) for found in up]
    return changes


def _depths(keys: set[str], side: str, first: int, count: int) -> list[int]:
    """How many transformer blocks each of `count` layers has, from block number `first` on."""
    starts = [f"model.diffusion_model.{side}_blocks.{first + layer}.1.transformer_blocks." for layer in range(count)]
    return [len({key.removeprefix(start).split(".")[0] for key in keys if key.startswith(start)}) for start in starts]


def _one(depths: list[int]) -> int | list[int]:
    """A level without attention still has a depth of 1 in the configurations."""
    return max(1, depths[0]) if len(set(depths)) == 1 else depths


def _family(keys: Iterable[str]) -> str | None:
    return next((name for name, start in _TEXT_ENCODERS.items() if any(key.startswith(start) for key in keys)), None)


def _write_configs(folder: Path, family: str, pipeline: str, changes: dict[str, dict]) -> None:
    """The family's configuration as a diffusers folder without weights."""
    index: dict[str, str | list[str]] = {"_class_name": pipeline}
    for file in sorted((CONFIGS / family).glob("*.json")):
        part = file.stem
        config = json.loads(file.read_text()) | changes.get(part, {})
        library = "transformers" if part.startswith("text_encoder") else "diffusers"
        index[part] = [library, config["_class_name"] if library == "diffusers" else config["architectures"][0]]
        if part.startswith("text_encoder"):
            index[part.replace("text_encoder", "tokenizer")] = ["transformers", "CLIPTokenizer"]
        (folder / part).mkdir()
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part / name).write_text(json.dumps(config))
    (folder / "model_index.json").write_text(json.dumps(index))
