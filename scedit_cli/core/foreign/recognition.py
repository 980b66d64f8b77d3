"""Recognition of files that are no tuners, and of the tool that takes them."""

from __future__ import annotations

from collections.abc import Sequence

# Kinds of files with their marks and tools; the first kind with a mark in a key applies.
_KINDS = [
    (
        "a ControlNet",
        ("controlnet_", "control_model.", "zero_convs.", "input_hint_block."),
        "diffusers' ControlNetModel takes it",
    ),
    (
        "a full Stable Diffusion checkpoint",
        ("model.diffusion_model.", "first_stage_model.", "cond_stage_model."),
        "it is a base, for generate's `base` or a recipe's base.model",
    ),
    ("a LyCORIS adapter", (".hada_w", ".lokr_w", ".oft_"), "the lycoris-lora package takes it"),
    ("a LoRA", ("lora_", ".lora.", "lora."), "a diffusers pipeline takes it with load_lora_weights"),
    (
        "a T2I-Adapter",
        ("adapter.body.", "adapter.conv_in.", "body.0.block1.", "body.0.in_conv.", "body.0.resnets."),
        "diffusers' T2IAdapter takes it",
    ),
    ("an IP-Adapter", ("image_proj.", "ip_adapter."), "a diffusers pipeline takes it with load_ip_adapter"),
    (
        "a textual inversion",
        ("emb_params", "string_to_param", "clip_l", "clip_g", "<"),
        "a diffusers pipeline takes it with load_textual_inversion",
    ),
    ("a VAE", ("decoder.up_blocks.", "decoder.up.", "quant_conv."), "generate's `vae` and a recipe's base.vae take it"),
    (
        "a diffusion transformer",
        ("double_blocks.", "joint_blocks.", "single_transformer_blocks.", "x_embedder."),
        "it has no skips of a U-Net to edit",
    ),
    (
        "a whole U-Net",
        ("up_blocks.", "output_blocks.", "conv_norm_out."),
        "it is part of a base, which generate's `base` and a recipe's base.model take",
    ),
    (
        "a text encoder",
        ("text_model.",),
        "it is part of a base, which generate's `base` and a recipe's base.model take",
    ),
    (
        "a scedit tuner whose metadata was lost",
        ("maps.0.down.", "tuners.0.maps."),
        "a program that rewrote it dropped its header: get the file again",
    ),
]


def recognised(keys: Sequence[str]) -> tuple[str, str]:
    """Return the apparent kind of a file with these keys, with its article, and the tool that takes it, or advice."""
    for name, marks, tool in _KINDS:
        if any(mark in key for key in keys for mark in marks):
            return name, tool
    if keys:
        return f"a file with keys such as {keys[0]!r}", "no other kind of file has such keys"
    return "an empty file", "get the file again"
