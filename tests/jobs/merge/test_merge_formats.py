from __future__ import annotations

import pytest
import torch

from scedit_cli import SceditError, SCTuner, load_tuner, save_tuner
from scedit_cli.core.source import read
from scedit_cli.jobs import merge as job
from scedit_cli.utils.errors import WorkFailed
from tests.jobs.merge.conftest import merge
from tests.recorder import Recorder


@pytest.mark.parametrize("format", ["scepter", "ms-swift", "scedit-pytorch"])
@pytest.mark.parametrize("place", ["theirs.safetensors", "theirs.bin", "theirs"])
def test_other_programs_formats(edited, unet, saved, tmp_path, format, place):
    one, two, out = saved(name="one"), saved(name="two", seed=2), tmp_path / place
    events = []
    result = merge([f"{one}:0.7", f"{two}:-0.5"], out=out, format=format, reporter=Recorder(events.append))
    assert result.format == format and result.max_difference < 1e-5
    expected = edited(unet, [load_tuner(one), load_tuner(two)], [0.7, -0.5])
    torch.testing.assert_close(edited(unet, load_tuner(out)), expected, rtol=0, atol=1e-5)
    told = " ".join(event.text for event in events)
    needed = {"scepter": "DOWN_RATIO: 2", "ms-swift": "adapter_config.json", "scedit-pytorch": "rank=64"}[format]
    assert (needed in told) == (place != "theirs" or format == "scedit-pytorch")
    if place.endswith(".safetensors"):
        assert float(read(out)[0]["merge.max_difference"]) == pytest.approx(result.max_difference, rel=0.01)


def test_scepters_bundles(saved, tmp_path):
    files = [f"{saved('canny')}:0.5", f"{saved('depth', seed=2)}:2", str(saved(seed=3))]
    with pytest.raises(SceditError, match="the canny tuner has the scale 0.5, which no file of scepter can say"):
        merge(files, out=tmp_path / "theirs.bin", format="scepter")
    assert not (tmp_path / "theirs.bin").exists()
    result = merge(files, out=tmp_path / "theirs", format="scepter")
    assert result.kind == "bundle" and result.relative_difference < 1e-6
    again = merge(
        [
            str(tmp_path / "theirs" / "0_sc"),
            *(f"{k}={tmp_path}/theirs/{i}_{k}" for i, k in ((1, "canny"), (2, "depth"))),
        ],
        out=tmp_path / "ours.safetensors",
    )
    assert [(each.condition, each.scale) for each in again.tuners] == [(None, 1.0), ("canny", 0.5), ("depth", 2.0)]
    with pytest.raises(SceditError, match="theirs exists already"):
        merge(files, out=tmp_path / "theirs", format="scepter", overwrite=True)


def test_kinds_name_the_conditions_of_other_programs_files(saved, tmp_path):
    plain = [f"{saved('canny')}", f"{saved('depth', seed=2)}"]
    merge(plain, out=tmp_path / "both.bin", format="scepter")
    one, other = tmp_path / "one.bin", tmp_path / "other.bin"
    merge(plain[:1], out=one, format="scepter")
    merge(plain[1:], out=other, format="scepter")
    out = tmp_path / "ours.safetensors"
    with pytest.raises(SceditError, match="both take hint conditions .*name the conditions: canny=FILE"):
        merge([str(one), str(other)], out=out)
    merge([f"hed={one}:0.5", f"pose={other}"], out=out)
    assert [(t.condition, s) for t, s in zip(load_tuner(out).tuners, load_tuner(out).scales, strict=True)] == [
        ("hed", 0.5),
        ("pose", 1.0),
    ]
    merge([f"edges,depth={tmp_path / 'both.bin'}"], out=out, overwrite=True)
    assert [tuner.condition for tuner in load_tuner(out).tuners] == ["edges", "depth"]
    with pytest.raises(SceditError, match="both.bin holds 2 CSC-Tuners, and edges names 1"):
        merge([f"edges={tmp_path / 'both.bin'}"], out=out, overwrite=True)
    with pytest.raises(SceditError, match="canny.safetensors takes canny conditions, not depth"):
        merge([f"depth={plain[0]}"], out=out, overwrite=True)
    with pytest.raises(SceditError, match="sc.safetensors is an SC-Tuner, which takes no condition .*leave canny= out"):
        merge([f"canny={saved()}"], out=out, overwrite=True)
    merge([f"canny={plain[0]}"], out=out, overwrite=True)
    assert load_tuner(out).condition == "canny"


def test_up_blocks_where_nobody_said(tmp_path):
    file = save_tuner(SCTuner([8] * 6), tmp_path / "style.safetensors")
    with pytest.raises(SceditError, match="`up_blocks=3,3,3,3`"):
        merge([str(file)], out=tmp_path / "w.bin", format="scedit-pytorch")
    merge([str(file)], out=tmp_path / "w.bin", format="scedit-pytorch", up_blocks=[2, 4])
    assert load_tuner(tmp_path / "w.bin").up_blocks == (2, 4)


def test_a_folder_that_came_out_wrong_does_not_appear(saved, tmp_path, monkeypatch):
    other = load_tuner(saved(name="other", seed=2))
    monkeypatch.setattr(job, "load_tuner", lambda *file: other)
    with pytest.raises(WorkFailed, match="differ"):
        merge([str(saved(name="one"))], out=tmp_path / "theirs", format="ms-swift")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "other.safetensors"]
