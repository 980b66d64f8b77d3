#!/bin/sh
# diffusers 0.42.1: timestep_spacing="trailing" gives one timestep too many for 62 numbers of steps, and it is -1.
#
# DDIMScheduler(timestep_spacing="trailing").set_timesteps(61) gives 62 timesteps, the last of which is -1. The other
# schedulers do the same. The timesteps come from numpy.arange(1000, 0, -1000 / 61), whose last value should be 0 and
# left out, but is 2e-13 by rounding; then 1 is subtracted. It happens for 62 of the numbers from 1 to 1000, 61, 103,
# 121, 122 and 201 being the first. A model that is asked about timestep -1 was never trained for it, and a pipeline
# does 62 steps where 61 were asked for.
#
# Seen:
#   62 timesteps for 61 steps, the last: [32, 15, -1]
#   60 steps: 60 timesteps, the last 16
#   wrong for 62 numbers up to 1000: [61, 103, 121, 122, 201]
#
# Exits 0 while this is so, and 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 numpy==2.4.0 >&2
"$folder/venv/bin/python" - <<'PYTHON'
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

for kind in (DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler):
    scheduler = kind(num_train_timesteps=1000, timestep_spacing="trailing")
    scheduler.set_timesteps(61)
    last = [round(float(step)) for step in scheduler.timesteps[-3:]]
    print(len(scheduler.timesteps), "timesteps for 61 steps, the last:", last, f"({kind.__name__})")
    assert (len(scheduler.timesteps), last) == (62, [32, 15, -1])

scheduler = DDIMScheduler(num_train_timesteps=1000, timestep_spacing="trailing")
scheduler.set_timesteps(60)
print("60 steps:", len(scheduler.timesteps), "timesteps, the last", int(scheduler.timesteps[-1]))
assert len(scheduler.timesteps) == 60

wrong = []
for steps in range(1, 1001):
    scheduler.set_timesteps(steps)
    if len(scheduler.timesteps) != steps:
        wrong.append(steps)
print("wrong for", len(wrong), "numbers up to 1000:", wrong[:5])
assert len(wrong) == 62 and wrong[:5] == [61, 103, 121, 122, 201]
PYTHON
