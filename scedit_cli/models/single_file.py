"""Loading of checkpoints in the original layout, one .safetensors file, with the configurations in the package."""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from scedit_cli.models.parts import homeless, missing
from scedit_cli.models.single_file_keys import family_of, homeless_in, other_kind
from scedit_cli.models.unet_inputs import check_unet
from scedit_cli.utils.errors import SceditError, not_loaded, reason
from scedit_cli.utils.fetched import check_fetched

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import CLIPTextModel, CLIPTokenizer

CONFIGS = Path(__file__).parent / "configs"
_UNET_INPUT = "model.diffusion_model.input_blocks.0.0.weight"
_FLOW = dict.fromkeys(("flow", "flow_matching", "flow_prediction", "rectified_flow", "rf"), "flow")
_PREDICTIONS = {
    "v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon", "eps": "epsilon", **_FLOW
}  # fmt: skip
PREDICTIONS = tuple(sorted(set(_PREDICTIONS.values())))
# Keys that only quantised files have: their weights, integers or 8-bit floats, are to be multiplied by such scales.
_QUANTISED = re.compile(r"scaled_fp8|.+\.(scale_weight|weight_scale(_2)?|comfy_quant|absmax|quant_map|quant_state\..+)")
_SD21_BASE = {"sample_size": 64}  # the releases that predict noise are for 512 pixels
# The prediction types of SD2.1's releases, by their names in `modelspec`.
_ARCHITECTURES = {"stable-diffusion-v2-512": "epsilon", "stable-diffusion-v2-768-v": "v_prediction"}
_CLIP_L = {"sd15": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
# The settings of EDM's preconditioning with which Playground v2.5 and CosXL were trained and are sampled.
_PLAYGROUND = {
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "sigma_data": 0.5,
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "prediction_type": "epsilon",
}
_PLAYGROUND_SCALE = 0.5
_COSXL = {
    "_class_name": "EDMEulerScheduler",
    "sigma_data": 1.0,
    "sigma_schedule": "exponential",
    "prediction_type": "v_prediction",
}


def open_original(file: Path, dtype: torch.dtype, prediction: str | None = None) -> tuple[DiffusionPipeline, bool]:
    """Load the pipeline of a single file of SD1.5, SD2.1 or SDXL, its autoencoder in float32 and the rest in `dtype`;
    also return whether its prediction type is a guess.

    The U-Net's channels, its mid block and the depth of its attention are read off the weights, so that inpainting and
    pruned U-Nets (SSD-1B, Vega) load too. SD2.1 is taken for a v-prediction model, as its 768-pixel release is, unless
    `prediction`, the file's own `modelspec` metadata, a marker among its weights or nine channels say otherwise.
    Playground v2.5 and CosXL are recognised by the statistics and noise levels in their files.

    Raises:
        SceditError: the file is pickled, damaged, incomplete or of another layout, or holds weights for which such a
            pipeline has no place.
    """
    from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline

    family, changes, is_guessed = _told_apart(file, prediction)
    if family == "sdxl":
        kind, parts = StableDiffusionXLPipeline, {"tokenizer_2": tokenizer(pad="!"), "add_watermarker": False}
    else:
        kind = StableDiffusionPipeline
        parts = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    with TemporaryDirectory() as folder:
        _write_configs(Path(folder), family, kind.__name__, changes)
        options = {"config": folder, "local_files_only": True}
        hint = "get it again, or give the model as a diffusers folder"
        try:
            vae = AutoencoderKL.from_single_file(str(file), subfolder="vae", dtype=torch.float32, **options)
            pad = "!" if family == "sd21" else "<|endoftext|>"
            if encoder := _bare_text_encoder(file, family, dtype):
                parts["text_encoder"] = encoder
            pipeline = kind.from_single_file(
                str(file), dtype=dtype, vae=vae, tokenizer=tokenizer(pad), **parts, **options
            )
        except Exception as error:  # with odd weights, diffusers raises errors of any kind
            if "meta tensor" in str(error):  # how PyTorch calls weights that no file has filled
                raise missing(f"base {file}: weights that a checkpoint of {family} has") from error
            said = f"base {file}: not as a checkpoint of {family} should be"
            raise not_loaded(error, said, hint, whole=True) from error
    for part, model in pipeline.components.items():
        if isinstance(model, torch.nn.Module) and any(weight.is_meta for weight in model.parameters()):
            raise missing(f"base {file}: weights of its {part}")
    if spare := homeless_in(_keys(file), pipeline):
        raise homeless(f"base {file}: weights", spare, f"a checkpoint of {family}")
    return pipeline, is_guessed


def original_config(file: Path, part: str) -> dict[str, Any]:
    """Return the configuration of a part ("unet" or "scheduler") of a single file, reading its header but no weights.

    Raises:
        SceditError: as for `open_original`.
    """
    family, changes, _ = _told_apart(file)
    return _config(family, part, changes)


def title_of(file: Path) -> str:
    """Return the title of a single file from its `modelspec` metadata; empty without one."""
    return _metadata(file).get("modelspec.title", "")


def _told_apart(file: Path, prediction: str | None = None) -> tuple[str, dict[str, dict[str, Any]], bool]:
    """Return the family of a single file, each part's changes to the family's configuration, and whether the prediction
    type is a guess."""
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
            edm = {key: checkpoint.get_tensor(key).flatten().tolist() for key in keys if key.startswith("edm_")}
    except (SafetensorError, OSError, RuntimeError, ValueError, IndexError) as error:
        raise SceditError(f"base {file}: a damaged file: {reason(error)}", hint="get it again") from error
    if scaled := min(filter(_QUANTISED.fullmatch, keys), default=None):
        raise SceditError(
            f"base {file}: its weights are quantised, with scales of their own ({scaled}), which are not read",
            hint="get its fp16 file; plain fp8 files are read too",
        )
    family = family_of(keys) if channels else None
    other = other_kind(keys, family)
    if family is None or other:
        whole = "no whole checkpoint of SD1.5, SD2.1 or SDXL in the original layout"
        raise SceditError(
            f"base {file}: {f'{other}, and ' if other else ''}{whole}",
            hint="give a text-to-image base of those families"
            if other
            else "give a file with U-Net, autoencoder and text encoder, or a diffusers folder",
        )

    unet = json.loads((CONFIGS / family / "unet.json").read_text())
    changes: dict[str, dict] = {"unet": {"in_channels": channels} | _pruning(keys, unet)} | _preconditioning(file, edm)
    check_unet(unet | changes["unet"], str(file), _config(family, "vae", changes)["latent_channels"])
    said = prediction or said_prediction(file)
    if family == "sd21" and channels == 9:
        said = said or "epsilon"  # its only inpainting release
    if said == "flow":
        changes["scheduler"] = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    elif said:
        changes["scheduler"] = changes.get("scheduler", {}) | {"prediction_type": said}
        if family == "sd21" and said == "epsilon" and unet["sample_size"] == 96:
            changes["unet"] |= _SD21_BASE
    if "ztsnr" in keys:
        changes["scheduler"] = changes.get("scheduler", {}) | {"rescale_betas_zero_snr": True}
    return family, changes, family == "sd21" and not said


def _preconditioning(file: Path, edm: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Return the changes to the configuration for a file whose tensors `edm` hold EDM's statistics or noise levels."""
    changes: dict[str, dict[str, Any]] = {}
    for first, second in (("edm_mean", "edm_std"), ("edm_vpred.sigma_min", "edm_vpred.sigma_max")):
        if (first in edm) != (second in edm):
            there, lacks = (first, second) if first in edm else (second, first)
            raise SceditError(f"base {file}: it has {there} and no {lacks}", hint="get it again")
    if "edm_mean" in edm:
        statistics = {"latents_mean": edm["edm_mean"], "latents_std": edm["edm_std"]}
        changes = {"scheduler": _PLAYGROUND, "vae": statistics | {"scaling_factor": _PLAYGROUND_SCALE}}
    if "edm_vpred.sigma_max" in edm:
        low, high = (edm[f"edm_vpred.sigma_{end}"] for end in ("min", "max"))
        if len(low) != 1 or len(high) != 1 or not 0 < low[0] < high[0] < math.inf:
            raise SceditError(
                f"base {file}: edm_vpred.sigma_min and sigma_max are {low} and {high}, no noise levels",
                hint="get it again",
            )
        changes["scheduler"] = _COSXL | {"sigma_min": low[0], "sigma_max": high[0]}
    return changes


def said_prediction(file: Path) -> str | None:
    """Return the prediction type that a checkpoint states, else None: in its `modelspec` metadata, or by the empty
    tensor v_pred, with which finetuners mark SDXL files."""
    told = _metadata(file)
    said = (told.get(f"modelspec.{key}", "") for key in ("prediction_type", "predict_key"))
    by_metadata = [_PREDICTIONS[each] for each in said if each in _PREDICTIONS]
    marked = "v_prediction" if "v_pred" in _keys(file) else None
    return next(iter(by_metadata), _ARCHITECTURES.get(told.get("modelspec.architecture", ""), marked))


def _bare_text_encoder(file: Path, family: str, dtype: torch.dtype) -> CLIPTextModel | None:
    """Return CLIP's text encoder of an early checkpoint, whose weights' names lack "text_model."; None where a file has
    the usual names."""
    from safetensors import safe_open
    from transformers import CLIPTextConfig, CLIPTextModel

    start = _CLIP_L.get(family, "-")
    names = [key.removeprefix(start) for key in _keys(file) if key.startswith(start)]
    names = [name for name in names if name.startswith(("embeddings.", "encoder.", "final_layer_norm."))]
    if not names:
        return None
    encoder = CLIPTextModel(CLIPTextConfig(**_config(family, "text_encoder", {})))
    inner = "text_model." if hasattr(encoder, "text_model") else ""
    with safe_open(file, "pt") as checkpoint:
        weights = {inner + name: checkpoint.get_tensor(start + name) for name in names if "position_ids" not in name}
    encoder.load_state_dict(weights)
    return encoder.to(dtype)


def _keys(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as checkpoint:
        return list(checkpoint.keys())


def _metadata(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as checkpoint:
        return checkpoint.metadata() or {}


def tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """Return CLIP's tokenizer (byte pairs, 49,408 words), which pads texts to 77 tokens with `pad`."""
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
    """Return the changes to the family's configuration `unet` for a pruned U-Net with weights of these names."""
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
    """Return the number of transformer blocks of each of `count` layers, from block `first` on."""
    starts = [f"model.diffusion_model.{side}_blocks.{first + layer}.1.transformer_blocks." for layer in range(count)]
    return [len({key.removeprefix(start).split(".")[0] for key in keys if key.startswith(start)}) for start in starts]


def _one(depths: list[int]) -> int | list[int]:
    """Return a level's depths as configurations write them: one number if all are equal, and 1 without attention."""
    return max(1, depths[0]) if len(set(depths)) == 1 else depths


def _config(family: str, part: str, changes: dict[str, dict]) -> dict[str, Any]:
    """Return the configuration of a part: the family's with its changes, or the changes alone for another class."""
    own = changes.get(part, {})
    return own if "_class_name" in own else json.loads((CONFIGS / family / f"{part}.json").read_text()) | own


def _write_configs(folder: Path, family: str, pipeline: str, changes: dict[str, dict]) -> None:
    """Write the family's configuration with its changes as a diffusers folder without weights."""
    index: dict[str, str | list[str]] = {"_class_name": pipeline}
    for file in sorted((CONFIGS / family).glob("*.json")):
        part = file.stem
        config = _config(family, part, changes)
        library = "transformers" if part.startswith("text_encoder") else "diffusers"
        index[part] = [library, config["_class_name"] if library == "diffusers" else config["architectures"][0]]
        if part.startswith("text_encoder"):
            index[part.replace("text_encoder", "tokenizer")] = ["transformers", "CLIPTokenizer"]
        (folder / part).mkdir()
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part / name).write_text(json.dumps(config))
    (folder / "model_index.json").write_text(json.dumps(index))
