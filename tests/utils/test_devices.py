"""--device: which device computes, told before any work where there is none such."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from scedit_cli.cli import app
from scedit_cli.utils.devices import check_name, device_here
from scedit_cli.utils.errors import SceditError

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "prepare": ["--scenes", "1", "--cache", "text", "--out", "out"], "annotate": ["photo.png", "--cond", "canny"],
    "train": ["--recipe", "canny.toml"], "generate": [], "bench": [],
    "merge": ["style", "--rank", "8", "--activations", "scenes", "--out", "b.safetensors"],
}  # fmt: skip


@pytest.fixture
def cards(monkeypatch):
    """A machine with so many CUDA devices, as far as PyTorch tells; which one it has made its current one."""
    current: list[int] = []

    def has(count: int) -> list[int]:
        best = torch.device("cuda") if count else None
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: best)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
        monkeypatch.setattr(torch.accelerator, "set_device_index", current.append)
        return current

    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return has


def test_one_that_is_there_is_taken(cards):
    current = cards(2)
    assert [device_here(name) for name in (None, "cpu", "cuda")] == [None, "cpu", "cuda"] and not current
    assert device_here("cuda:1") == "cuda:1" and current == [1]


def test_launched_processes_get_a_device_each(cards, monkeypatch):
    current = cards(2)
    monkeypatch.setenv("WORLD_SIZE", "4")  # on two machines
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert device_here("cuda") == f"cuda:{rank}"
    assert current == [0, 1] and device_here("cpu") == "cpu"
    with pytest.raises(SceditError, match="`device` cuda:1: 4 processes cannot share it"):
        device_here("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(SceditError, match="`device` cuda:2: this machine has 2 devices") as error:
        device_here("cuda")
    assert error.value.hint == "start fewer processes"


@pytest.mark.parametrize(
    ("count", "name", "message", "hint"),
    [
        (0, "cuda", "`device` cuda: PyTorch .* finds no cuda device here", "choose cpu, or leave `device` out"),
        (0, "cuda:0", "`device` cuda:0: PyTorch .* finds no cuda device here", "choose cpu"),
        (0, "mps", "finds no mps device here", "choose cpu"),
        (1, "mps", "finds no mps device here", "choose cuda or cpu"),
        (1, "xpu:0", "finds no xpu device here", "choose cuda or cpu"),
        (1, "cuda:1", "`device` cuda:1: this machine has 1 device, counted from 0", "choose cuda:0"),
        (2, "cuda:7", "this machine has 2 devices, counted from 0", "choose cuda:0 to cuda:1"),
    ],
)
def test_one_that_is_not_there_is_told(cards, count, name, message, hint):
    cards(count)
    with pytest.raises(SceditError, match=message) as error:
        device_here(name)
    assert error.value.exit_code == 2 and error.value.hint.startswith(hint)


@pytest.mark.parametrize(
    "name", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cuda:1:2", "cpu:0", "mps:0", "meta"]
)
def test_what_is_no_name(name):
    with pytest.raises(SceditError, match=f"`device` {name}: no device is called that"):
        check_name(name)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_it_and_tells_at_once(command, tmp_path, monkeypatch, cards):
    cards(0)
    monkeypatch.chdir(tmp_path)
    for name, message in (("gpu", "no device is called that"), ("cuda:3", "finds no cuda device here")):
        answer = CliRunner().invoke(app, [command, *COMMANDS[command], "--device", name, "--json"])
        assert answer.exit_code == 2 and message in json.loads(answer.stdout)["error"]["message"], answer.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_hands_it_to_its_job(command, monkeypatch, cards):
    cards(2)
    given = []
    module = __import__(f"scedit_cli.jobs.{command}", fromlist=["job"])
    result = SimpleNamespace(document=dict, summary=list, is_first=True, worse=[], unwritten=None)

    def work(*args, **options) -> SimpleNamespace:
        holders = [options.get(name) for name in ("encoding", "config", "base")]
        given.append(options.get("device") or next((each for each in holders if each), (*args, None)[0]).device)
        return result

    monkeypatch.setattr(module, command, work)
    extra = ["--plot", "a.png"] if command == "bench" else []
    answer = CliRunner().invoke(app, [command, *COMMANDS[command], *extra, "--device", "cuda:1", "--json"])
    assert answer.exit_code == 0 and given == ["cuda:1"], answer.output


def test_merging_has_no_use_for_one_without_a_base(tmp_path):
    words = ["merge", "style", "--out", str(tmp_path / "b.safetensors"), "--device", "cpu"]
    answer = CliRunner().invoke(app, [*words, "--json"])
    message = json.loads(answer.stdout)["error"]["message"]
    assert answer.exit_code == 2 and "--device cpu does nothing without --activations" in message


def test_nonsense_is_told_without_pytorch():
    code = (
        "import sys; from scedit_cli.cli import main; sys.argv = ['scedit', 'generate', '--device', 'gpu']\n"
        "try: main()\nfinally: print('torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert answer.returncode == 2 and answer.stdout == "False\n" and "no device is called that" in answer.stderr


def test_windows_is_told(monkeypatch):
    monkeypatch.setattr(sys.modules["scedit_cli.cli.main"], "_IS_WINDOWS", True)
    answer = CliRunner().invoke(app, ["generate", "--json"])
    error = json.loads(answer.stdout)["error"]
    assert answer.exit_code == 2 and "Windows cannot lock" in error["message"] and "wsl" in error["hint"]
    assert CliRunner().invoke(app, ["--version"]).exit_code == CliRunner().invoke(app, ["--help"]).exit_code == 0
