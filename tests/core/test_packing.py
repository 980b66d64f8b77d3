"""The same tuner gives the same bytes in every process, whatever the libraries' hash maps and temporary names do."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from scedit_cli.core.packing import packed

ROOT = Path(__file__).parents[2]
SAVING = """
import sys
from pathlib import Path
import torch
from scedit_cli.core.bundle import Bundle
from scedit_cli.core.tuners import CSCTuner, SCTuner
from scedit_cli.core.weights import save_tuner

folder = Path(sys.argv[1])
torch.manual_seed(0)
one = SCTuner((8, 8, 16, 16))
one.up_blocks = (2, 2)
canny = CSCTuner((8, 8, 16, 16), (8, 8, 16, 16), condition="canny", hint_channels=8)
facts = {f"fact.{number}": str(number) for number in range(20)}
for name, tuner in (("sc", one), ("csc", canny), ("bundle", Bundle([one, canny], [1.0, 1.0]))):
    save_tuner(tuner, folder / f"{name}.safetensors", facts)
for format in ("scepter", "ms-swift", "scedit-pytorch"):
    for place in (f"{format}.safetensors", f"{format}.bin", format):
        save_tuner(one, folder / place, facts, format=format)
"""


def test_every_tuner_file_is_the_same_in_every_process(tmp_path):
    found = []
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        subprocess.run([sys.executable, "-c", SAVING, tmp_path / name], check=True, cwd=ROOT, timeout=120)
        files = [path for path in sorted((tmp_path / name).rglob("*")) if path.is_file()]
        digest = {str(each.relative_to(tmp_path / name)): hashlib.sha256(each.read_bytes()).digest() for each in files}
        found.append(digest)
    assert len(found[0]) > 12 and found[0] == found[1] == found[2]


@pytest.mark.parametrize("key", ["a", "ä" * 7, "📷", 'quote"\\'])
def test_packed_files_are_whole_and_aligned(key, tmp_path):
    tensors = {"b": torch.arange(3.0), "a": torch.zeros(2, 2, dtype=torch.float16), "view": torch.ones(4, 4)[:, :1]}
    data = packed(tensors, {key: "ü", "z": "1", "b": "2"})
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0 and list(json.loads(data[8 : 8 + size])["__metadata__"]) == sorted([key, "z", "b"])
    (tmp_path / "file.safetensors").write_bytes(data)
    with safe_open(tmp_path / "file.safetensors", "pt") as opened:
        assert opened.metadata() == {key: "ü", "z": "1", "b": "2"}
        assert all(torch.equal(opened.get_tensor(name), value) for name, value in tensors.items())
