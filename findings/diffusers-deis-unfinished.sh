#!/bin/sh
# diffusers 0.42.1: DEISMultistepScheduler never finishes; its images keep noise, and with Karras' sigmas the last step
# changes nothing.
#
# The other solvers append a noise level of zero to their sigmas, and go there in their last step.
# DEISMultistepScheduler appends its last sigma again. With the usual timesteps the last step therefore ends at 0.029
# in place of 0, and with use_karras_sigmas=True, whose last sigma is that already, it goes from 0.029 to 0.029: the
# U-Net is called for it, and the latents stay what they are. There is no final_sigmas_type as the others have it.
#
# Seen (Stable Diffusion's schedule, 20 steps, a perfect noise predictor; deviation of what is left of the noise, and
# the largest change in the last step):
#   DPMSolverMultistepScheduler: 0.0000, 0.9148; with Karras' sigmas 0.0000, 0.1250
#   UniPCMultistepScheduler: 0.0000, 0.9148; with Karras' sigmas 0.0000, 0.1258
#   DEISMultistepScheduler: 0.0290, 0.7945; with Karras' sigmas 0.0301, 0.0000
#
# Exits 0 while this is so, and 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 diffusers==0.42.1 numpy==2.4.0 >&2
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import torch
from diffusers import DEISMultistepScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

IMAGE = 0.3  # every value of the image that the predictor knows


def drawn(kind, karras):
    scheduler = kind(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", use_karras_sigmas=karras)
    scheduler.set_timesteps(20)
    x = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    for timestep in scheduler.timesteps:
        alpha = scheduler.alphas_cumprod[int(timestep)]
        noise = (x - alpha.sqrt() * IMAGE) / (1 - alpha).sqrt()
        before, x = x, scheduler.step(noise, timestep, x).prev_sample
    return float((x - IMAGE).std()), float((x - before).abs().max())


for kind in (DPMSolverMultistepScheduler, UniPCMultistepScheduler, DEISMultistepScheduler):
    (left, moved), (left_by_karras, moved_by_karras) = drawn(kind, False), drawn(kind, True)
    print(
        f"{kind.__name__}: {left:.4f}, {moved:.4f}; with Karras' sigmas {left_by_karras:.4f}, {moved_by_karras:.4f}"
    )
    if kind is DEISMultistepScheduler:
        assert min(left, left_by_karras) > 0.02 and moved > 0.1 and moved_by_karras == 0
    else:
        assert max(left, left_by_karras) < 0.0001 and min(moved, moved_by_karras) > 0.1
PYTHON
