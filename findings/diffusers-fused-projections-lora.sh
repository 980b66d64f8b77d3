#!/bin/sh
# diffusers 0.42.1 with peft 0.21.2: a LoRA that is added after fuse_qkv_projections is mostly not there.
#
# unet.fuse_qkv_projections() puts a layer to_qkv (to_kv in cross-attention) beside each attention's to_q, to_k and
# to_v. The latter stay in the model, where add_adapter finds them and wraps them without a word, but the fused
# attention calls the former. Nothing that a LoRA says about self-attention, or about keys and values of
# cross-attention, reaches the image. After unfuse_qkv_projections the LoRA is there, and so are the copies, which
# save_pretrained writes: 8 more tensors for two transformer blocks.
#
# Seen (largest difference that the LoRA makes):
#   not fused: to_q of self-attention 0.066, to_k of cross-attention 0.106 (any numbers above 0.001)
#   fused: to_q of self-attention 0.0, to_k of cross-attention 0.0
#   tensors before fusing and after fusing and separating: 208, 216
#
# Exits 0 while this is so, and 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 diffusers==0.42.1 transformers==5.24.0 peft==0.21.2 numpy==2.4.0 >&2
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

torch.manual_seed(0)
latents, words = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 32)


def new_unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    ).eval()


@torch.no_grad()
def changed(pattern, fused):
    unet = new_unet()
    if fused:
        unet.fuse_qkv_projections()
    before = unet(latents, 10, words).sample
    unet.add_adapter(LoraConfig(r=4, target_modules=pattern, init_lora_weights=False))
    return float((unet(latents, 10, words).sample - before).abs().max())


patterns = {"to_q of self-attention": r".*attn1\.to_q", "to_k of cross-attention": r".*attn2\.to_k"}
for fused in (False, True):
    found = {name: changed(pattern, fused) for name, pattern in patterns.items()}
    print("fused:" if fused else "not fused:", ", ".join(f"{name} {value}" for name, value in found.items()))
    assert max(found.values()) == 0 if fused else min(found.values()) > 0.001

unet = new_unet()
before = len(unet.state_dict())
unet.fuse_qkv_projections()
unet.unfuse_qkv_projections()
print(f"tensors before fusing and after fusing and separating: {before}, {len(unet.state_dict())}")
assert len(unet.state_dict()) > before
PYTHON
