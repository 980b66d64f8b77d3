"""The gatherings of several processes that a launcher has started."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from torch.distributed import TCPStore

from tests.ranks import free_port

GATHER = """
from datetime import timedelta
from scedit_cli.utils import distributed

distributed._PATIENCE = timedelta(seconds=60)
share = distributed.Share.mine()
for number in range(6):
    print(share.gathered([10 * number + share.index]))
"""


@pytest.mark.parametrize("launcher", ["torchrun", "another"])
def test_processes_may_gather_again_and_again(launcher):
    """torchrun has a store of its own, which outlives a gathering; else the first process has it."""
    port = free_port()
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    if launcher == "torchrun":
        store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)  # noqa: F841  serves while it lives
        shared["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", GATHER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]  # fmt: skip
    try:
        ends = [(*each.communicate(timeout=120), each.returncode) for each in ranks]
    finally:
        for each in ranks:
            each.kill()
    for out, err, code in ends:
        assert code == 0, err
        assert out.splitlines() == [str([10 * number, 10 * number + 1]) for number in range(6)]
