#!/bin/sh
# diffusers 0.42.1 with torch 2.14.1: a U-Net exported for any batch takes 63 images at most.
#
# The U-Net's upsampling makes its input contiguous from 64 images on, for the sake of a CUDA kernel of older days.
# torch.export keeps one path of that condition, and with it the batches that take it: a dynamic batch up to 128 is
# refused, and with Dim.AUTO, which asks for no limit, the exported program checks at run time that no more than 63
# images come. With classifier-free guidance that is 31 images.
#
# Seen:
#   Dim("batch", max=63): exported
#   Dim("batch", max=128): UserError
#   Dim.AUTO: exported; 63 images pass, 64 raise an error
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
from torch.export import Dim, export

torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=8,
    block_out_channels=(16, 32),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=16,
    attention_head_dim=2,
    norm_num_groups=8,
).eval()


def inputs(images):
    return torch.randn(images, 4, 8, 8), torch.tensor(10), torch.randn(images, 5, 16)


def exported(batch):
    shapes = {"sample": {0: batch}, "timestep": None, "encoder_hidden_states": {0: batch}}
    return export(unet, inputs(2), dynamic_shapes=shapes)


def outcome(work):
    try:
        work()
    except Exception as error:
        return type(error).__name__
    return "done"


seen = [outcome(lambda: exported(Dim("batch", max=most))) for most in (63, 128)]
program = exported(Dim.AUTO).module()
seen += [outcome(lambda: program(*inputs(images))) for images in (63, 64)]
names = 'Dim("batch", max=63)', 'Dim("batch", max=128)', "63 images with Dim.AUTO", "64 images with Dim.AUTO"
for name, result in zip(names, seen):
    print(f"{name}: {result}")
with torch.no_grad():
    assert unet(*inputs(64)).sample.shape[0] == 64  # the U-Net itself has no such limit
assert seen[0] == seen[2] == "done" and seen[1] != "done" and seen[3] != "done"
PYTHON
