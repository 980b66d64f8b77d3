#!/bin/sh
# diffusers 0.42.1: EDMEulerScheduler, listed as exchangeable with DDIM's, asks the U-Net about timesteps near zero.
#
# scheduler.compatibles is where programs find what may replace a pipeline's scheduler. For a DDIM scheduler, and so for
# every Stable Diffusion, it names EDMEulerScheduler, whose timesteps are a quarter of the logarithm of sigma: 1.1 down
# to -1.6. A U-Net that was trained on timesteps 0 to 999 is told that pure noise is an almost clean image. The schedule
# of betas is dropped too, and no error is raised.
#
# Seen (20 steps; how much of the first image is noise, beside what it is at the timestep that the U-Net is told):
#   EulerDiscreteScheduler: timesteps 999.0 to 0.0, noise 0.998, at that timestep 0.998
#   EDMEulerScheduler: timesteps 1.1 to -1.6, noise 1.000, at that timestep 0.041
#
# Exits 0 while this is so, and 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 diffusers==0.42.1 numpy==2.4.0 >&2
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
from diffusers import DDIMScheduler, EDMEulerScheduler, EulerDiscreteScheduler

ddim = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def told(kind):
    scheduler = kind.from_config(ddim.config)
    scheduler.set_timesteps(20)
    first, last = float(scheduler.timesteps[0]), float(scheduler.timesteps[-1])
    sigma = float(scheduler.sigmas[0])
    noise = sigma / (sigma**2 + 1) ** 0.5
    trained = float((1 - ddim.alphas_cumprod[round(first)]).sqrt())
    print(f"{kind.__name__}: timesteps {first:.1f} to {last:.1f}, noise {noise:.3f}, at that timestep {trained:.3f}")
    return noise - trained


assert EDMEulerScheduler in ddim.compatibles
assert abs(told(EulerDiscreteScheduler)) < 0.01
assert told(EDMEulerScheduler) > 0.9
PYTHON
