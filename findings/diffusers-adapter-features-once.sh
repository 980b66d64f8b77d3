#!/bin/sh
# diffusers 0.42.1: a U-Net empties the list of adapter features that it is given, and draws without them next time.
#
# A T2I-Adapter's features go to UNet2DConditionModel as down_intrablock_additional_residuals=[...]. They do not depend
# on the timestep, so a sampling loop computes them once. The U-Net takes them out of that very list: at the second step
# the list is empty, which the U-Net takes for "no adapter", and the remaining steps are drawn without control and
# without a warning. Diffusers' own pipelines make a new list for each step. A tuple raises an error at the first step.
#
# Seen (largest difference to the same call without an adapter):
#   first call: 0.65 (any number above 0.1), then 0 features left in the list
#   second call with the same list: 0.0
#
# Exits 0 while this is so, and 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 diffusers==0.42.1 numpy==2.4.0 >&2
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import torch
from diffusers import UNet2DConditionModel

torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=8,
    block_out_channels=(32, 64),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=16,
    attention_head_dim=4,
    norm_num_groups=8,
).eval()
latents, words = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 16)
features = [torch.randn(1, 32, 8, 8), torch.randn(1, 64, 4, 4)]


@torch.no_grad()
def predicted(**adapter):
    return unet(latents, 10, words, **adapter).sample


plain = predicted()
found = []
for call in ("first", "second"):
    found.append(float((predicted(down_intrablock_additional_residuals=features) - plain).abs().max()))
    print(f"{call} call: {found[-1]}, features left in the list: {len(features)}")
assert found[0] > 0.1 and found[1] == 0 and not features
PYTHON
