"""What the light modules know by name is what the heavy ones have."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from scedit_cli.benchmark import methods, modes
from scedit_cli.core.tuners import CSCTuner, SCTuner
from scedit_cli.core.weights import save_tuner
from scedit_cli.jobs import merge
from scedit_cli.jobs.checks.tuners import header_of
from scedit_cli.models import base, single_file
from scedit_cli.models.base import load_base
from scedit_cli.models.names import check_model, multiple_of
from scedit_cli.scenes import WORLD
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import check_writable
from scedit_cli.utils.names import PRECISIONS, PREDICTIONS, TUNER_PRECISIONS
from tests import tiny


def test_names_are_those_of_what_they_name():
    assert tuple(base.DTYPES) == PRECISIONS and tuple(merge.DTYPES) == TUNER_PRECISIONS
    assert tuple(single_file.PREDICTIONS) == PREDICTIONS
    assert tuple(methods.METHODS) == modes.METHODS


@pytest.mark.parametrize("family", ["sd15", "sdxl", None])
def test_sides_are_multiples_of_what_the_configuration_says(family):
    folder = tiny.pipeline_folder(family) if family else WORLD / "base"
    assert multiple_of(folder) == load_base(str(folder)).multiple


def test_a_folder_that_does_not_tell_has_no_multiple(tmp_path):
    assert multiple_of(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("sd15", "stable-diffusion-v1-5/"), ("SD1.5", "stable-diffusion-v1-5/"), ("sd-1.5", "stable-diffusion-v1-5/"),
        ("stable-diffusion-v1-5", "stable-diffusion-v1-5/"), ("sd21", "stable-diffusion-2-1"),
        ("sd2.1", "stable-diffusion-2-1"), ("SDXL", "xl-base-1.0"), ("sdxl-1.0", "xl-base-1.0"), ("flux", "a hub id"),
    ],
)  # fmt: skip
def test_short_names_of_families_are_told_in_full(name, meant):
    for loads in (check_model, load_base):
        with pytest.raises(SceditError, match="no such folder or file") as error:
            loads(name)
        assert meant in error.value.hint
    check_model("scenes")
    check_model("owner/model@v1")


def test_headers_tell_conditions_without_pytorch(tmp_path):
    sc, canny = SCTuner((8, 8)), CSCTuner((8, 8), (8, 8), condition="canny", hint_channels=8)
    assert header_of(str(save_tuner(sc, tmp_path / "a.safetensors"))).conditions == (None,)
    assert header_of(str(save_tuner(canny, tmp_path / "b.safetensors"))).conditions == ("canny",)
    assert header_of("canny").conditions == ("canny",)
    foreign = save_tuner(canny, tmp_path / "c.safetensors", format="scepter")
    assert header_of(str(foreign)).conditions is None and header_of("owner/name").conditions is None
    torch.save({}, tmp_path / "d.bin")
    assert header_of(str(tmp_path / "d.bin")).conditions is None


def test_places_are_probed_and_left_as_they_were(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "new.png", tmp_path / "a" / "b" / "new.png", tmp_path, tmp_path / "file"):
        check_writable(place, "--out")
    with pytest.raises(SceditError, match="--out .*/a could not be written: .*/file is a file"):
        check_writable(tmp_path / "file" / "b" / "a", "--out")

    def refuse(number):
        def mkdir(self, *args, **options):
            raise OSError(number, os.strerror(number), str(self))

        return mkdir

    for number, is_told in {errno.EROFS: True, errno.EACCES: True, errno.ENOENT: True, errno.ENOSPC: False}.items():
        monkeypatch.setattr(Path, "mkdir", refuse(number))
        if is_told:
            with pytest.raises(SceditError, match="could not be written") as error:
                check_writable(tmp_path / "new", "--out")
            assert error.value.exit_code == 2
        else:
            check_writable(tmp_path / "new", "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
