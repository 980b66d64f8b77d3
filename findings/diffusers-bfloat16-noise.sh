#!/bin/sh
# diffusers 0.42.1: add_noise adds no noise to bfloat16 latents at timesteps 0 and 1, and too much at timestep 2.
#
# Schedulers round the table of alphas_cumprod to the latents' type before they take 1 - alpha of it. Just below 1,
# bfloat16 has one number in 256: of Stable Diffusion's schedule, 0.9991 and 0.9983 become 1, so that the first two
# timesteps, where a loss on the noise is worth most, show the model clean latents; the third gets 1.23 times its noise.
# In float16 the noise is up to 7 % wrong. Training in mixed precision is such a case as soon as the autoencoder's
# output is left in its type. get_velocity, the target of v-prediction, rounds in the same way.
#
# Seen (Stable Diffusion's schedule; noise of deviation 1 on latents that are zero):
#   bfloat16: none at timesteps [0, 1], 1.235 times as much at timestep 2, 192 different levels of 1000
#   float16: none at timesteps [], 1.072 times as much at timestep 0, 762 different levels of 1000
#   float32: none at timesteps [], 1.000 times as much at most
#
# Exits 0 while this is so, and 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 diffusers==0.42.1 numpy==2.4.0 >&2
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import torch
from diffusers import DDPMScheduler

scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
timesteps = torch.arange(1000)
exact = (1 - scheduler.alphas_cumprod).sqrt()


def added(dtype):
    """Return what is added at each timestep to latents of 0 where the noise is 1."""
    return scheduler.add_noise(torch.zeros(1000, 1, dtype=dtype), torch.ones(1000, 1, dtype=dtype), timesteps).float()


found = {}
for dtype in (torch.bfloat16, torch.float16, torch.float32):
    noise = added(dtype).flatten()
    ratio = noise / exact
    found[dtype] = (noise == 0).nonzero().flatten().tolist(), float(ratio.max())
    print(
        f"{dtype}: none at timesteps {found[dtype][0]}, {found[dtype][1]:.3f} times as much at timestep "
        f"{int(ratio.argmax())}, {len(noise.unique())} different levels"
    )
assert found[torch.bfloat16][0] == [0, 1] and found[torch.bfloat16][1] > 1.2
assert found[torch.float16][1] > 1.05 and found[torch.float32] == ([], found[torch.float32][1])
assert found[torch.float32][1] < 1.001
PYTHON
