#!/bin/sh
# torch 2.14.1: on a CPU, group norms of channels-last images take many times as long as those of contiguous ones.
#
# Convolutions are faster channels-last, so a diffusion U-Net is kept so, and its group norms with it. In bfloat16 the
# norm's backward pass then takes 19 times as long on a decoder's images (4 of 128 channels and 64x64 pixels, 32
# groups), although forwards it is as fast; on small images (16 of 64 channels and 16x16 pixels, 16 groups) the forward
# pass takes 20 times as long too. In float32 it is 4 and 6 times. Two copies, there and back, cost about as much as the
# quick kernel itself.
#
# Seen (bfloat16, one thread; any ratio of 4 or more is taken for it):
#   large images, backwards: 19.1 times as long
#   small images, forwards: 19.7 times as long
#   small images, with copies there and back: 2.7 times as long
#
# Exits 0 while this is so, and 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy==2.4.0 >&2
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import time

import torch
from torch.nn.functional import group_norm

torch.set_num_threads(1)
last = {"memory_format": torch.channels_last}


def seconds(work):
    """Return the least of some times, which other programs disturb least."""
    work()
    found = []
    for _ in range(20):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def forwards(x, groups):
    return seconds(lambda: group_norm(x, groups))


def backwards(x, groups):
    x = x.detach().requires_grad_()
    y = group_norm(x, groups)
    gradient = torch.randn_like(y)
    return seconds(lambda: torch.autograd.grad(y, x, gradient, retain_graph=True))


def by_copies(x, groups):
    return seconds(lambda: group_norm(x.contiguous(), groups).contiguous(**last))


large, small = torch.randn(4, 128, 64, 64).bfloat16(), torch.randn(16, 64, 16, 16).bfloat16()
found = {
    "large images, backwards": backwards(large.contiguous(**last), 32) / backwards(large, 32),
    "small images, forwards": forwards(small.contiguous(**last), 16) / forwards(small, 16),
    "small images, with copies there and back": by_copies(small.contiguous(**last), 16) / forwards(small, 16),
}
for name, ratio in found.items():
    print(f"{name}: {ratio:.1f} times as long")
*slow, copied = found.values()
raise SystemExit(min(slow) < 4 or copied > 4)
PYTHON
