from __future__ import annotations

import pytest
import torch

from scedit_cli import Bundle, SceditError, SCTuner, load_tuner, save_tuner
from scedit_cli.core.source import read
from scedit_cli.jobs import merge as job
from scedit_cli.utils.errors import WorkFailed
from tests.jobs.merge.conftest import merge
from tests.recorder import Note, Recorder


def test_sc_tuners_become_one_file_that_gives_the_same(edited, unet, saved, tmp_path):
    one, two = saved(name="one", seed=1), saved(name="two", seed=2)
    out = tmp_path / "combo.safetensors"
    result = merge([f"{one}:0.7", f"{two}:-0.5"], out=out)
    merged = load_tuner(out)
    assert type(merged) is SCTuner
    expected = edited(unet, [load_tuner(one), load_tuner(two)], [0.7, -0.5])
    torch.testing.assert_close(edited(unet, merged), expected, rtol=0, atol=1e-5)
    assert result.document() == {
        "out": str(out),
        "kind": "sc",
        "format": "scedit",
        "average": False,
        "rank": None,
        "tuners": [
            {"file": str(one), "kind": "sc", "condition": None, "scale": 0.7},
            {"file": str(two), "kind": "sc", "condition": None, "scale": -0.5},
        ],
        "max_difference": result.max_difference,
        "relative_difference": result.relative_difference,
    }
    assert 0 <= result.max_difference < 1e-5
    assert float(merged.metadata["merge.max_difference"]) == pytest.approx(result.max_difference, rel=0.01)
    assert merged.metadata["modelspec.title"] == "combo"


def test_conditions_become_a_bundle_that_gives_the_same(edited, unet, saved, tmp_path):
    files = [saved("canny", seed=1), saved(seed=2), saved("depth", seed=3)]
    out = tmp_path / "combo.safetensors"
    result = merge([f"{files[0]}:0.5", str(files[1]), f"{files[2]}:1.5"], out=out)
    merged = load_tuner(out)
    assert isinstance(merged, Bundle) and result.kind == "bundle"
    hints = {kind: torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(9)) for kind in ("canny", "depth")}
    expected = edited(unet, [load_tuner(file) for file in files], [0.5, 1.0, 1.5], **hints)
    torch.testing.assert_close(edited(unet, merged, **hints), expected, rtol=0, atol=1e-5)
    assert result.max_difference < 1e-5

    again = merge([f"{out}:0.5"], out=tmp_path / "again.safetensors")
    assert {(each.condition, each.scale) for each in again.tuners} == {(None, 0.5), ("canny", 0.25), ("depth", 0.75)}


def test_the_same_tuners_make_the_same_file(saved, tmp_path):
    """Bit for bit, though metadata are read in any order."""
    facts, out = {f"fact{number}": "x" for number in range(9)}, tmp_path / "out"
    tuners = [str(saved(kind, **facts)) for kind in (None, "canny")]
    files = set()
    for _ in range(3):
        merge(tuners, out=out / "combo.safetensors", overwrite=True)
        files.add((out / "combo.safetensors").read_bytes())
    assert len(files) == 1


def test_the_summary_names_every_tuner(saved, tmp_path):
    files = [saved("canny"), saved()]
    rows = merge(list(map(str, files)), out=tmp_path / "combo.safetensors").summary()
    assert [value for _, value in rows][1:3] == [f"{files[0]} (canny)", f"{files[1]} (SC)"]
    assert rows[-1] == ("difference", "less than 0.001 % of the edit of the separate tuners, on random features")


def test_a_difference_is_told_as_a_share_of_the_edit(saved, tmp_path):
    """What half precision rounds is as little of a large edit as of a small one."""
    results = [
        merge([f"{saved()}:{scale}"], out=tmp_path / f"{scale}.safetensors", dtype="fp16") for scale in (0.1, 10)
    ]
    assert results[1].max_difference > 50 * results[0].max_difference
    for result in results:
        assert 1e-5 < result.relative_difference < 1e-3
        told = dict(result.summary())["difference"]
        assert told == f"{100 * result.relative_difference:.2g} % of the edit of the separate tuners, on random features"
        assert float(load_tuner(result.out).metadata["merge.relative_difference"]) == pytest.approx(
            result.relative_difference, rel=0.01
        )


def test_tuners_that_cancel_each_other_are_told(saved, tmp_path):
    made = merge([f"{saved()}", f"{saved()}:-1"], out=tmp_path / "none.safetensors")
    name, told = made.summary()[-1]
    assert name == "difference" and "the separate tuners cancel each other" in told and "inf" not in told


def test_a_file_that_came_out_wrong_does_not_appear(saved, tmp_path, monkeypatch):
    out = tmp_path / "combo.safetensors"
    other = load_tuner(saved(name="other", seed=2))
    monkeypatch.setattr(job, "load_tuner", lambda *file: other)
    with pytest.raises(WorkFailed, match="the merged file gives edits that differ by .* from the separate tuners'"):
        merge([str(saved(name="one"))], out=out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "other.safetensors"]


def test_tuners_must_be_for_one_base(saved, tmp_path):
    base = {"base": "mine", "base_fingerprint": "a" * 32}
    one, same = saved(name="one", **base), saved("canny", **base)
    other, silent = saved("depth", base="theirs", base_fingerprint="b" * 32), saved("seg")
    events = []
    merge([str(one), str(same), str(silent)], out=tmp_path / "combo.safetensors", reporter=Recorder(events.append))
    assert [type(event) for event in events] == [Note] and str(silent) in events[0].text
    facts = read(tmp_path / "combo.safetensors")[0]
    assert facts["kind"] == "bundle" and {key: facts[key] for key in base} == base
    with pytest.raises(SceditError, match="different bases: .*one.* on mine.* and .*depth.* on theirs"):
        merge([str(one), str(other)], out=tmp_path / "wrong.safetensors")
    assert not (tmp_path / "wrong.safetensors").exists()


def test_sizes_must_fit(saved, tmp_path):
    wide = save_tuner(SCTuner([8] * 6), tmp_path / "wide.safetensors")
    with pytest.raises(SceditError, match=r"wide\.safetensors edits skips of 8×6 channels, .*sc\.safetensors of 8×4"):
        merge([str(saved()), str(wide)], out=tmp_path / "combo.safetensors")


def test_one_condition_goes_in_once(saved, tmp_path):
    with pytest.raises(SceditError, match=r"one\.safetensors and .*two\.safetensors both take canny conditions"):
        merge([str(saved("canny", "one")), str(saved("canny", "two", seed=2))], out=tmp_path / "combo.safetensors")


@pytest.mark.parametrize(
    ("tuner", "message"),
    [
        ("missing/missing.safetensors", "missing.safetensors: no such tuner file"),
        ("stile", "stile: no such tuner file, and none of that name comes with scedit .*give a tuner's file"),
        ("{folder}/noise.safetensors", "noise.safetensors cannot be read"),
        ("{folder}/sc.safetensors:loud", "the scale 'loud' is no number"),
    ],
)
def test_what_cannot_be_read(tuner, message, saved, tmp_path):
    saved()
    (tmp_path / "noise.safetensors").write_bytes(b"\x07" * 64)
    with pytest.raises(SceditError, match=message):
        merge([tuner.format(folder=tmp_path)], out=tmp_path / "combo.safetensors")
    assert not (tmp_path / "combo.safetensors").exists()


def test_where_it_may_be_written(saved, tmp_path):
    one, out = str(saved(name="one")), tmp_path / "combo.safetensors"
    with pytest.raises(SceditError, match="`out` .*combo.pt: a tuner file ends in .safetensors"):
        merge([one], out=tmp_path / "combo.pt")
    out.write_bytes(b"mine")
    with pytest.raises(SceditError, match="`out` .*combo.safetensors exists already"):
        merge([one], out=out)
    assert out.read_bytes() == b"mine"
    merge([f"{one}:2"], out=out, overwrite=True)
    assert type(load_tuner(out)) is SCTuner


def test_a_file_that_appears_while_tuners_are_merged_is_left_alone(saved, tmp_path, monkeypatch):
    out, read = tmp_path / "combo.safetensors", job._read_back
    monkeypatch.setattr(job, "_read_back", lambda *given: out.write_bytes(b"theirs") and read(*given))
    with pytest.raises(SceditError, match="combo.safetensors exists already"):
        merge([str(saved(name="one"))], out=out)
    assert out.read_bytes() == b"theirs"


def test_tuners_that_were_taught_differently_are_refused(saved, tmp_path):
    one, two = saved(name="one", prediction_type="epsilon"), saved("canny", prediction_type="v_prediction")
    alone = saved(name="alone", prediction_type="v_prediction", zero_terminal_snr="true")
    for other, ways in ((one, "epsilon and .*canny.* with v_prediction"), (alone, "v_prediction from noise alone and .*")):
        with pytest.raises(SceditError, match=f"{other.stem}.* was trained with {ways}") as error:
            merge([str(other), str(two)], out=tmp_path / "combo.safetensors")
        assert "train.zero_terminal_snr" in error.value.hint
    assert not (tmp_path / "combo.safetensors").exists()


def test_a_tuner_that_does_not_tell_follows_the_others(saved, tmp_path):
    told = {"prediction_type": "v_prediction", "zero_terminal_snr": "true"}
    merge([str(saved(name="alone", **told)), str(saved(name="silent", seed=2))], out=tmp_path / "one.safetensors")
    facts = read(tmp_path / "one.safetensors")[0]
    assert facts["kind"] == "sc" and {key: facts[key] for key in told} == told
