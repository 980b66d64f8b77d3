#!/bin/sh
# ms-swift 4.6.0: a controllable SCEdit tuner (SCETuningConfig with hint_modules) raises an error at its first image.
#
# hint_modules names the modules whose outputs steer the tuners. ms-swift hooks them with with_kwargs=True, for which
# PyTorch calls a hook with four arguments, and the hook takes three. Preparing the model succeeds; any forward pass
# ends in a TypeError about probe_output_hook. Without hint_modules the same tuners edit the skips as they should.
#
# Seen:
#   without hint_modules: changes the U-Net's output by 1.04 (any number above 0.1)
#   with hint_modules: probe_output_hook() takes 3 positional arguments but 4 were given
#
# Exits 0 while this is so, and 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# What ms-swift's tuners import; all of its requirements would be several gigabytes more.
"$folder/venv/bin/pip" install -q torch==2.14.1 diffusers==0.42.1 transformers==5.19.0 peft==0.20.0 accelerate==1.15.0 \
    datasets==4.8.4 modelscope==1.40.2 modelscope_hub==0.5.1 json_repair==0.64.6 einops==0.8.2 kernels==0.17.2 \
    numpy==2.4.0 >&2
"$folder/venv/bin/pip" install -q --no-deps ms-swift==4.6.0 >&2
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import torch
from diffusers import UNet2DConditionModel
from swift.tuners import SCETuningConfig, Swift

torch.manual_seed(0)
latents, words = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 32)
SKIPS = ["down_blocks.1.resnets.0", "down_blocks.0.downsamplers.0", "down_blocks.0.attentions.0", "conv_in"]
DECODER = ["up_blocks.0.resnets.0", "up_blocks.0.resnets.1", "up_blocks.1.resnets.0", "up_blocks.1.resnets.1"]


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
def drawn(**hints):
    config = SCETuningConfig(dims=[64, 32, 32, 32], target_modules=DECODER, tuner_mode="decoder", **hints)
    model = Swift.prepare_model(new_unet(), {"sce": config})
    for name, weights in model.named_parameters():
        if "scetuner" in name:
            weights.normal_(std=0.2)
    return model(latents, 10, words).sample


with torch.no_grad():
    change = float((drawn() - new_unet()(latents, 10, words).sample).abs().max())
print("without hint_modules: changes the U-Net's output by", change)
try:
    drawn(hint_modules=SKIPS)
    error = None
except TypeError as raised:
    error = str(raised)
print("with hint_modules:", error)
assert change > 0.1 and error and "probe_output_hook" in error
PYTHON
