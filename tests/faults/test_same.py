"""The same recipe, seed and machine give the same tuner, and the same order the same picture, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.commands import tuners
from tests.faults.ends import assert_same_end
from tests.faults.small import Small


def test_fresh_processes_agree(small: Small, tmp_path: Path, tried) -> None:
    """Two of each, started again, with other hash seeds, in other folders."""
    files = tmp_path / "files"
    files.mkdir()
    tuners(small, files)
    generate = ["generate", "--base", small.base, "--tuner", files / "canny.safetensors", "--steps", "2"]
    generate += ["--cond", f"canny={files / 'canny.png'}", "--num", "3", "--seed", "5"]
    merge = ["merge", files / "canny.safetensors", f"{files / 'style.safetensors'}:0.5"]

    def make(name: str, seed: str) -> None:
        place = tmp_path / name
        place.mkdir()
        for arguments in (
            small.training(place / "run"),
            [*generate, "--out", place / "pictures"],
            [*merge, "--out", place / "combo.safetensors"],
            ["prepare", "--scenes", "12", "--seed", "7", "--out", place / "data", "--cache", "latents,text"],
        ):
            fresh(*arguments, seed=seed)

    with ThreadPoolExecutor() as pool:
        list(pool.map(make, ("one", "two"), ("1", "2")))
    one, two = tmp_path / "one", tmp_path / "two"
    assert_same_end(one / "run", two / "run")
    exact = ["combo.safetensors"]
    for pattern in ("pictures/*", "data/images/*", "data/conditions/*/*", "data/cache/*/*"):
        exact += [path.relative_to(one).as_posix() for path in one.glob(pattern)]
    assert len(exact) > 30
    assert not [name for name in exact if (one / name).read_bytes() != (two / name).read_bytes()]
    tried("commands that give the same twice", 4)


def fresh(*arguments: object, seed: str) -> dict:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": seed}
    command = [sys.executable, "-m", "scedit_cli", *map(str, arguments), "--json"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)
