"""Checks that a U-Net takes the inputs that it is called with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scedit_cli.utils.errors import SceditError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_FAMILIES = (
    "bases of the SD1.5, SD2.1, SDXL and DreamLite families can be tuned, whose U-Nets take latents, a time and texts"
)
_CLASSES = {
    "projection": "the embedding of an image, as unCLIP's do",
    "simple_projection": "the embedding of an image",
    "timestep": "another noise level",
    "identity": "an embedding",
}


def check_unet(config: Mapping[str, Any], name: str, latent_channels: int = 4) -> None:
    """Check that the U-Net of base `name`, by its `config`, takes latents, a time and texts, and beside them at most an
    inpainting U-Net's inputs: a mask and the latents of the masked image.

    Raises:
        SceditError: it takes an image, a class or another input, or predicts more than noise or velocity.
    """
    if classes := config.get("class_embed_type") or config.get("num_class_embeds"):
        taken = _CLASSES.get(classes, "a class or a noise level, as upscalers' do")
        raise SceditError(f"base {name}: its U-Net takes class_labels beside texts: {taken}", _FAMILIES)
    taken = {
        "addition_embed_type": (None, "text_time", "time"),
        "encoder_hid_dim_type": (None, "text_proj", "text_proj_rms"),
    }
    for key, known in taken.items():
        if config.get(key) not in known:
            raise SceditError(f"base {name}: its U-Net takes more than texts: {key} is {config[key]!r}", _FAMILIES)
    taken, given = (config.get(key, latent_channels) for key in ("in_channels", "out_channels"))
    if given != latent_channels:
        raise SceditError(
            f"base {name}: its U-Net predicts {given} channels, where latents have {latent_channels}",
            hint="bases whose U-Nets predict noise or velocity alone, without its variance, can be tuned",
        )
    if taken not in (latent_channels, 2 * latent_channels + 1):
        raise SceditError(
            f"base {name}: its U-Net takes {taken} channels, where latents have {latent_channels}",
            hint=f"text-to-image bases and inpainting ones, whose U-Nets take {2 * latent_channels + 1}, can be tuned",
        )


def check_texts(pipeline: DiffusionPipeline, name: str) -> None:
    """Check that the text encoders of base `name` fit its U-Net and its tokenizers.

    Raises:
        SceditError: the U-Net takes other widths than the text encoders give, only one of U-Net and pipeline is SDXL's,
            or a tokenizer exceeds its text encoder's length or vocabulary.
    """
    unet, is_xl = pipeline.unet.config, hasattr(pipeline, "text_encoder_2")
    encoders = [pipeline.text_encoder, pipeline.text_encoder_2] if is_xl else [pipeline.text_encoder]
    configs = [encoder.config.get_text_config() for encoder in encoders]
    width = sum(config.hidden_size for config in configs)
    takes = unet.get("encoder_hid_dim") or unet.cross_attention_dim
    if any(each != width for each in (takes if isinstance(takes, list | tuple) else [takes])):
        unlike = f"its U-Net takes texts of width {takes}, its text encoders give {width}"
        raise SceditError(f"base {name}: {unlike}", _FAMILIES)
    if (unet.get("addition_embed_type") == "text_time") != is_xl:
        beside = "takes sizes and pooled texts" if not is_xl else "takes no sizes and pooled texts"
        raise SceditError(f"base {name}: its U-Net {beside}, unlike a {type(pipeline).__name__}'s", _FAMILIES)
    if is_xl:
        given = 6 * unet.addition_time_embed_dim + encoders[-1].config.projection_dim
        if unet.projection_class_embeddings_input_dim != given:
            raise SceditError(
                f"base {name}: its U-Net takes {unet.projection_class_embeddings_input_dim} numbers of sizes and "
                f"pooled texts, where SDXL's six sizes and its text encoder give {given}",
                hint="an SDXL refiner takes five and an aesthetic score; SDXL bases and finetunes of it can be tuned",
            )
    if unet.get("addition_embed_type") == "time":
        taken, given = unet.projection_class_embeddings_input_dim, 2 * unet.addition_time_embed_dim
        if taken != given:
            told = f"its U-Net takes {taken} numbers of sizes, where an image's width and height give {given}"
            raise SceditError(f"base {name}: {told}", hint="take the U-Net of a DreamLite pipeline")
    tokenizers = [pipeline.tokenizer, pipeline.tokenizer_2] if is_xl else [pipeline.tokenizer]
    for tokenizer, config in zip(tokenizers, configs, strict=True):
        if "CLIP" in type(tokenizer).__name__ and tokenizer.model_max_length > config.max_position_embeddings:
            raise SceditError(
                f"base {name}: its tokenizer gives {tokenizer.model_max_length} tokens, its text encoder reads "
                f"{config.max_position_embeddings}",
                hint=f'model_max_length in tokenizer_config.json is {config.max_position_embeddings}',
            )
        if len(tokenizer) > config.vocab_size:
            raise SceditError(
                f"base {name}: its tokenizer knows {len(tokenizer)} tokens, its text encoder {config.vocab_size}",
                hint="take the tokenizer that it was made with",
            )
