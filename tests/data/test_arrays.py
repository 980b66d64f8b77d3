from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from scedit_cli.data.arrays import planes, stacked, unit


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.int64], ids=str)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_stacked_is_what_pytorch_stacks(dtype, shape):
    tensors = [torch.randint(0, 9, shape).to(dtype) for _ in range(3)]
    assert torch.equal(stacked(tensors), torch.stack(tensors)) and stacked(tensors).dtype == dtype
    turned = [tensor.permute(2, 1, 0) for tensor in tensors] if len(shape) == 3 else tensors
    assert torch.equal(stacked(turned), torch.stack(turned))


def test_pixels_are_planes_of_shares():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    made = planes(pixels)
    assert made.shape == (3, 4, 6) and torch.equal(made, torch.from_numpy(pixels).permute(2, 0, 1))
    assert unit(made).dtype == torch.float32 and torch.equal(unit(made), made.float() / 255)


PROGRAM = """
import sys, threading, time
from pathlib import Path
import psutil, torch
from scedit_cli.data.hints import Hints

torch.set_num_threads(2)
torch.ones(10**6).add_(1)  # this thread has its team

def settled():
    count = None  # a thread that has been joined may take a moment to end
    while count != (count := psutil.Process().num_threads()):
        time.sleep(0.1)
    return count

def more(work):
    counts = []
    thread = threading.Thread(target=lambda: (counts.append(settled()), work(), counts.append(settled())))
    thread.start()
    thread.join()
    return counts[1] - counts[0]

hints = Hints([Path(sys.argv[1])] * 4, (256, 256))
print(more(lambda: hints.batch([0, 1, 2, 3], 0)), more(lambda: torch.stack([torch.ones(256, 256)] * 4).mul(2)))
"""


def test_threads_that_load_start_no_teams(tmp_path):
    """As PyTorch would for each, whose threads would slow down those that compute."""
    Image.effect_noise((256, 256), 99).convert("RGB").save(tmp_path / "a.png")
    answer = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path / "a.png"], capture_output=True, text=True)
    assert answer.stdout == "0 1\n", answer
