"""Pipelines written in the original one-file layout: the inverse of what diffusers' `from_single_file` undoes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from scedit_cli.models import single_file
from tests import tiny

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
}
_OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def save_original(pipeline: DiffusionPipeline, family: str, file: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes `pipeline`, of tests.tiny's `family`, as one file."""
    tensors = unet_weights(pipeline.unet.state_dict()) | _vae(pipeline.vae.state_dict())
    first = _text(pipeline.text_encoder)
    if family == "sd21":
        tensors |= _open_clip(first, "cond_stage_model.model.")
    else:
        start = "cond_stage_model" if family == "sd15" else "conditioner.embedders.0"
        tensors |= {f"{start}.transformer.text_model.{key}": value for key, value in first.items()}
    if family == "sdxl":
        tensors |= _open_clip(_text(pipeline.text_encoder_2), "conditioner.embedders.1.model.")
    save_file({key: value.contiguous() for key, value in tensors.items()}, file, metadata)


def single_files(tmp_path, monkeypatch):
    """A fixture: writes a tiny pipeline as a single file, and its configuration in place of the full-size one."""

    def write(family: str, **metadata):
        pipeline = tiny.pipeline(family)
        layout = {"ssd1b": "sdxl", "inpaint": "sd15"}.get(family, family)
        save_configs(pipeline, layout, tmp_path / "configs")
        save_original(pipeline, layout, tmp_path / f"{family}.safetensors", metadata)
        return tmp_path / f"{family}.safetensors"

    monkeypatch.setattr(single_file, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(single_file, "tokenizer", lambda pad="": tiny.tokenizer())
    return write


def save_original_autoencoder(vae: torch.nn.Module, file: Path) -> None:
    """Writes an autoencoder as a file of its own, as they are passed around."""
    tensors = _vae(vae.state_dict())
    save_file({key.removeprefix("first_stage_model."): value.contiguous() for key, value in tensors.items()}, file)


def save_configs(pipeline: DiffusionPipeline, family: str, folder: Path) -> None:
    """Writes the configurations of `pipeline` as those of `family`, where the package keeps its own."""
    (folder / family).mkdir(parents=True)
    for name, part in pipeline.components.items():
        if name.startswith("text_encoder"):
            config = part.config.to_dict() | {"architectures": [type(part).__name__]}
            (folder / family / f"{name}.json").write_text(json.dumps(config))
        elif name in ("unet", "vae", "scheduler"):
            config = {key: value for key, value in part.config.items() if key != "_use_default_values"}
            config["_class_name"] = type(part).__name__
            (folder / family / f"{name}.json").write_text(json.dumps(config, default=str))


def unet_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    with_attention = {match[0] for key in weights if (match := re.match(r"up_blocks\.\d+\.(?=attentions)", key))}

    def renamed(key: str) -> str:
        for new, old in _UNET.items():
            if key.startswith(f"{new}."):
                return key.replace(new, old)
        place, b, kind, k, rest = re.fullmatch(
            r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", key
        ).groups()
        if kind == "resnets":
            inner, _, leaf = rest.rpartition(".")
            rest = f"{_RESNET[inner]}.{leaf}"
        if place == "mid":
            return f"middle_block.{1 if kind == 'attentions' else 2 * int(k)}.{rest}"
        if kind == "downsamplers":
            return f"input_blocks.{3 * int(b) + 3}.0.{rest.replace('conv', 'op')}"
        if kind == "upsamplers":
            return f"output_blocks.{3 * int(b) + 2}.{2 if f'up_blocks.{b}.' in with_attention else 1}.{rest}"
        side, number = ("input", 1 + 3 * int(b) + int(k)) if place == "down" else ("output", 3 * int(b) + int(k))
        return f"{side}_blocks.{number}.{0 if kind == 'resnets' else 1}.{rest}"

    return {f"model.diffusion_model.{renamed(key)}": value for key, value in weights.items()}


def _vae(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    def renamed(key: str) -> str:
        key = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", key)
        key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample.", key)
        key = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda found: f"up.{3 - int(found[1])}.block.", key)
        key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0\.", lambda found: f"up.{3 - int(found[1])}.upsample.", key)
        return _replaced(key, _VAE)

    named = {f"first_stage_model.{renamed(key)}": value for key, value in weights.items()}
    return {key: v[:, :, None, None] if "attn_1" in key and v.dim() == 2 else v for key, v in named.items()}


def _text(encoder: torch.nn.Module) -> dict[str, Tensor]:
    return {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}


def _open_clip(weights: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    tensors = {}
    for key, value in weights.items():
        if key == "embeddings.position_embedding.weight":
            tensors["positional_embedding"] = value
        elif key == "text_projection.weight":
            tensors["text_projection"] = value.T
        elif ".q_proj." in key:
            layer, leaf = re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(\w+)", key).groups()
            three = [weights[key.replace("q_proj", name)] for name in ("q_proj", "k_proj", "v_proj")]
            tensors[f"transformer.resblocks.{layer}.attn.in_proj_{leaf}"] = torch.cat(three)
        elif ".k_proj." not in key and ".v_proj." not in key:
            tensors[_replaced(key, _OPEN_CLIP)] = value
    return {start + key: value for key, value in tensors.items()}


def _replaced(key: str, names: dict[str, str]) -> str:
    for new, old in names.items():
        key = key.replace(new, old)
    return key
