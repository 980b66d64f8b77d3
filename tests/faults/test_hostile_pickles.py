"""Pickles that would run code, and packed files that claim more than they hold: none runs, and none is unpacked."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scedit_cli.autoencoder import open_autoencoder
from scedit_cli.base import load_base
from scedit_cli.core.tuners import SCTuner
from scedit_cli.core.weights import load_tuner, save_tuner
from scedit_cli.errors import SceditError
from tests import tiny
from tests.faults.box import GIB, faults, try_each


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(canary: Path) -> dict[str, object]:
    """What would leave a canary behind if it were unpickled, by every way that is known to us."""
    python, shell = f"open({str(canary)!r}, 'w').close()", f"touch {canary}"
    weights = torch.zeros(4, 4)
    return {
        "os.system": Calls(os.system, shell), "exec": Calls(exec, python), "eval": Calls(eval, python),
        "open": Calls(open, str(canary), "w"), "popen": Calls(os.popen, shell), "mkdir": Calls(os.mkdir, str(canary)),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"), "import": Calls(__import__, "antigravity"),
        "among tensors": {"a": weights, "b": Calls(os.system, shell)}, "as a key": {Calls(os.system, shell): weights},
        "in a list": [weights, [Calls(exec, python)]], "torch.load": Calls(torch.load, str(canary)),
        "pickle.loads": Calls(pickle.loads, pickle.dumps(Calls(exec, python))),
        "torch.hub": Calls(torch.hub.load, "owner/repository", "entry"), "symlink": Calls(os.symlink, "/", str(canary)),
        "a module": torch.nn.Linear(2, 2), "a function": len, "a class": Path, "map": Calls(map, os.system, [shell]),
        "compile": Calls(compile, python, "x", "exec"),
    }  # fmt: skip


def as_zip(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def as_old_file(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def as_tar(value: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(value)
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def as_read():
    """Sees to it that everything that reads weights refuses a file, or what is no name of one; gives the reasons."""
    own = tiny.pipeline("sd15").vae

    def work(file: Path | str) -> str:
        reasons = []
        for read in (load_tuner, load_base, lambda place: open_autoencoder(place, own)):
            with pytest.raises(SceditError) as refused:
                read(file)
            reasons.append(str(refused.value))
        return "; ".join(reasons)

    return work


@pytest.mark.parametrize("pack", [as_zip, as_old_file, as_tar, pickle.dumps], ids=lambda pack: pack.__name__)
def test_no_payload_runs(pack, as_read, tmp_path, tried) -> None:
    canary, cases = tmp_path / "canary", []
    for name, payload in payloads(canary).items():
        for suffix in (".bin", ".safetensors", ".ckpt"):
            try:
                data = pack(payload)
            except (pickle.PicklingError, TypeError, AttributeError):
                continue
            file = tmp_path / f"{name}{suffix}"
            file.write_bytes(data)
            cases.append(file)
    assert not canary.exists() and len(cases) >= 45
    outcomes = try_each(cases, as_read, seconds=10)
    tried("pickles that would run code", len(outcomes))
    assert faults(outcomes, seconds=10) == ""
    assert {each.what for each in outcomes} == {"fine"} and not canary.exists()


def test_a_folder_base_of_pickles_is_not_read(tmp_path) -> None:
    pipeline = tiny.pipeline("sd15")
    pipeline.save_pretrained(tmp_path / "base", safe_serialization=False)
    canary = tmp_path / "canary"
    for file in (tmp_path / "base").rglob("*.bin"):
        torch.save(Calls(os.system, f"touch {canary}"), file)
    with pytest.raises(SceditError, match="pickled .bin weights are not"):
        load_base(tmp_path / "base")
    assert not canary.exists()


def bombs(folder: Path) -> list[Path]:
    """Small .bin files of large tensors."""
    style = SCTuner((8, 8), (8, 8))
    save_tuner(style, folder / "style.bin", format="scepter")
    with zipfile.ZipFile(folder / "style.bin") as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(folder / "deflated.bin", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for name, data in members.items():
            packed.writestr(name, bytes(GIB // 2) if name.endswith("/data/0") else data)
    maps = [f"lsc_identity.{i}.tuner_op.{layer}" for i in (0, 1) for layer in ("ln1", "ln2")]
    names = [f"{each}.{part}" for each in maps for part in ("weight", "bias")]
    wide = torch.zeros(1)
    torch.save({name: wide.expand(40_000, 40_000) if "weight" in name else wide.expand(40_000) for name in names},
               folder / "expanded.bin")  # fmt: skip
    torch.save({names[0]: wide.as_strided((2**40, 1), (0, 0))}, folder / "huge.bin")
    (folder / "style.bin").unlink()
    return sorted(folder.iterdir())


def test_bombs_are_refused_before_they_take_memory(tmp_path, tried) -> None:
    outcomes = try_each(bombs(tmp_path), load_tuner, seconds=5)
    tried("tensor files that blow up", len(outcomes))
    assert faults(outcomes, seconds=5, memory=GIB // 4) == ""
    assert [each.what for each in outcomes] == ["refused"] * 3
    assert all("claims more weights than it has bytes" in each.said for each in outcomes)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd", "/etc/passwd", "owner/../../x", "owner/name/../..", "~root/x", "file:///etc/passwd",
        "a/b\n", "http://localhost:1/x/y",
        "owner/name@../..", ".hidden/x", "owner/.git", "-o/x", "a" * 97 + "/b", "a/b\x00",
        "%2e/%2e", "é/ü",
    ],
    ids=ascii,
)  # fmt: skip
def test_hub_ids_that_are_paths(name, as_read, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    as_read(name)
    assert not any(tmp_path.iterdir())
