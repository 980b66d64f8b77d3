#!/bin/sh
# diffusers 0.42.1 with transformers 5.24.0: a pipeline saved in float16 is loaded in two types, and cannot draw.
#
# Both libraries load in float32 where nobody names a type: diffusers always did, transformers takes the type that the
# folder's config.json says since version 5. So StableDiffusionPipeline.from_pretrained(folder) of a pipeline that was
# saved in half precision gives a float32 U-Net and autoencoder with a float16 text encoder, and the first image ends
# in an error about matrices of two types. A folder saved in float32, or torch_dtype=..., is as it was.
#
# Seen:
#   loaded with {}: unet, vae, text_encoder in float32, float32, float16; drawing: RuntimeError
#   loaded with {'torch_dtype': torch.float32}: unet, vae, text_encoder in float32, float32, float32; drawing: an image
#
# Exits 0 while this is so, and 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 diffusers==0.42.1 transformers==5.24.0 numpy==2.4.0 >&2
"$folder/venv/bin/python" - "$folder/pipeline" <<'PYTHON' 2>/dev/null
import sys

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

letters = sorted(ByteLevel.alphabet())
words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=16)
text_encoder = CLIPTextModel(
    CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )
)
unet = UNet2DConditionModel(
    sample_size=8,
    block_out_channels=(32, 64),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=32,
    attention_head_dim=4,
    norm_num_groups=8,
)
vae = AutoencoderKL(block_out_channels=(16,), norm_num_groups=8, sample_size=8)
models = vae, text_encoder, tokenizer, unet, DDIMScheduler(), None, None
pipeline = StableDiffusionPipeline(*models, requires_safety_checker=False)
pipeline.to(torch.float16).save_pretrained(sys.argv[1])

seen = []
for options in ({}, {"torch_dtype": torch.float32}):
    pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1], **options)
    types = [str(getattr(pipeline, name).dtype).removeprefix("torch.") for name in ("unet", "vae", "text_encoder")]
    try:
        pipeline("a cube", num_inference_steps=1)
        drawn = "an image"
    except RuntimeError:
        drawn = "RuntimeError"
    print(f"loaded with {options}: unet, vae, text_encoder in {', '.join(types)}; drawing: {drawn}")
    seen.append((types, drawn))
assert seen == [
    (["float32", "float32", "float16"], "RuntimeError"),
    (["float32", "float32", "float32"], "an image"),
]
PYTHON
