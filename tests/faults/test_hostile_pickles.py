"""Pickles that would run code, and packed files that claim more than they hold: none runs, and none is unpacked."""

from __future__ import annotations

import functools
import io
import os
import pickle
import runpy
import shutil
import subprocess
import tarfile
import timeit
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scedit_cli.core.tuners import SCTuner
from scedit_cli.core.weights import load_tuner, save_tuner
from scedit_cli.models.autoencoder import open_autoencoder
from scedit_cli.models.base import load_base
from scedit_cli.utils.errors import SceditError
from tests import tiny
from tests.faults.box import GIB, faults, try_each
from tests.faults.forked import each


class Calls:
    """Pickles as a call of `function`, which may be what another call gives."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call

    def __call__(self) -> None:
        """Pickles hold what can be called alone."""


def payloads(folder: Path) -> dict[str, object]:
    """What leaves a canary of its name in `folder` / "canaries" when it is unpickled, by every way that is known to us.
    What some of them call lies in `folder`."""
    weights = torch.zeros(4, 4)
    (folder / "canaries").mkdir()

    def canary(name: str) -> str:
        return str(folder / "canaries" / name)

    def python(name: str) -> str:
        return f"open({canary(name)!r}, 'w').close()"

    def shell(name: str) -> Calls:
        return Calls(os.system, f"touch '{canary(name)}'")

    for name in ("runpy", "hubconf"):
        (folder / f"{name}.py").write_text(python("torch.hub" if name == "hubconf" else name))
    torch.save(Calls(exec, python("torch.load")), folder / "inner.pt")
    load = functools.partial(torch.load, weights_only=False)
    hub = functools.partial(torch.hub.load, source="local")
    return {
        "os.system": shell("os.system"), "exec": Calls(exec, python("exec")), "eval": Calls(eval, python("eval")),
        "open": Calls(open, canary("open"), "w"), "mkdir": Calls(os.mkdir, canary("mkdir")),
        "symlink": Calls(os.symlink, "/", canary("symlink")), "copy": Calls(shutil.copy, __file__, canary("copy")),
        "Path": Calls(Path.touch, Path(canary("Path"))), "run": Calls(subprocess.run, ["touch", canary("run")]),
        "check_output": Calls(subprocess.check_output, ["touch", canary("check_output")]),
        "popen": Calls(Calls(getattr, Calls(os.popen, f"touch '{canary('popen')}'"), "read")),
        "getattr": Calls(Calls(getattr, Calls(__import__, "os"), "mkdir"), canary("getattr")),
        "runpy": Calls(runpy.run_path, str(folder / "runpy.py")), "timeit": Calls(timeit.timeit, "0", python("timeit")),
        "compile": Calls(exec, Calls(compile, python("compile"), "x", "exec")),
        "map": Calls(list, Calls(map, os.mkdir, [canary("map")])), "in a list": [weights, [shell("in a list")]],
        "among tensors": {"a": weights, "b": shell("among tensors")}, "as a key": {shell("as a key"): weights},
        "pickle.loads": Calls(pickle.loads, pickle.dumps(Calls(exec, python("pickle.loads")))),
        "torch.load": Calls(load, str(folder / "inner.pt")), "torch.hub": Calls(hub, str(folder), "entry"),
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


def test_every_payload_runs_where_pickles_are_trusted(tmp_path) -> None:
    """So that it means something that none of them does."""
    cases = {name: pickle.dumps(payload) for name, payload in payloads(tmp_path).items()}

    def trusting(name: str) -> bool:
        try:
            pickle.loads(cases[name])
        except Exception:  # the canary is out by then
            pass
        return (tmp_path / "canaries" / name).exists()

    ran = dict(zip(cases, each(trusting, cases), strict=True))
    assert len(ran) >= 20 and [name for name, has_run in ran.items() if not has_run] == []


@pytest.mark.parametrize("pack", [as_zip, as_old_file, as_tar, pickle.dumps], ids=lambda pack: pack.__name__)
def test_no_payload_runs(pack, as_read, tmp_path, tried) -> None:
    cases = []
    for name, payload in payloads(tmp_path).items():
        data = pack(payload)
        for suffix in (".bin", ".safetensors", ".ckpt"):
            file = tmp_path / f"{name}{suffix}"
            file.write_bytes(data)
            cases.append(file)
    outcomes = try_each(cases, as_read, seconds=10)
    tried("pickles that would run code", len(outcomes))
    assert faults(outcomes, seconds=10) == ""
    assert {each.what for each in outcomes} == {"fine"} and not any((tmp_path / "canaries").iterdir())


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
