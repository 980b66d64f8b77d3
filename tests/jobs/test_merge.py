from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from typer.testing import CliRunner

from scedit_cli import Bundle, CSCTuner, SceditError, SCTuner, attach, load_tuner, save_tuner
from scedit_cli.app import app
from scedit_cli.base import load_base
from scedit_cli.core.weights import read_metadata
from scedit_cli.errors import WorkFailed
from scedit_cli.jobs import merge as job
from scedit_cli.jobs.merge import merge
from scedit_cli.jobs.progress import Note, Progress
from tests import tiny


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return tiny.unet("sd15").eval().requires_grad_(False)


@pytest.fixture
def saved(unet, tmp_path):
    """Writes a tuner as if it had been trained: saved("canny"), or saved() for an SC-Tuner; returns its path."""

    def save(condition: str | None = None, name: str | None = None, seed: int = 1, **metadata: str) -> Path:
        tuner = CSCTuner.for_unet(unet, condition, hint_channels=8) if condition else SCTuner.for_unet(unet)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in tuner.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=draw))
        return save_tuner(tuner, tmp_path / f"{name or condition or 'sc'}.safetensors", metadata)

    return save


def edited(unet, tuners, scales=None, **hints):
    """What the U-Net says with these tuners on."""
    draw = torch.Generator().manual_seed(5)
    sample, context = torch.randn(2, 4, 8, 8, generator=draw), torch.randn(2, 7, tiny.TEXT_WIDTH, generator=draw)
    with torch.no_grad(), attach(unet, tuners, scales) as edits:
        edits.set_hints(hints or None)
        return unet(sample, torch.tensor([10, 700]), context).sample


def test_sc_tuners_become_one_file_that_gives_the_same(unet, saved, tmp_path):
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
    }
    assert 0 <= result.max_difference < 1e-5
    assert float(merged.metadata["merge.max_difference"]) == pytest.approx(result.max_difference, rel=0.01)
    assert merged.metadata["modelspec.title"] == "combo"


def test_conditions_become_a_bundle_that_gives_the_same(unet, saved, tmp_path):
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


def test_the_summary_names_every_tuner(saved, tmp_path):
    files = [saved("canny"), saved()]
    rows = merge(list(map(str, files)), out=tmp_path / "combo.safetensors").summary()
    assert [value for _, value in rows][1:3] == [f"{files[0]} (canny)", f"{files[1]} (SC)"]


def test_a_file_that_came_out_wrong_does_not_appear(saved, tmp_path, monkeypatch):
    out = tmp_path / "combo.safetensors"
    other = load_tuner(saved(name="other", seed=2))
    monkeypatch.setattr(job, "load_tuner", lambda *file: other)
    with pytest.raises(WorkFailed):
        merge([str(saved(name="one"))], out=out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "other.safetensors"]


def test_tuners_must_be_for_one_base(saved, tmp_path):
    base = {"base": "mine", "base_fingerprint": "a" * 32}
    one, same = saved(name="one", **base), saved("canny", **base)
    other, silent = saved("depth", base="theirs", base_fingerprint="b" * 32), saved("seg")
    events = []
    merge([str(one), str(same), str(silent)], out=tmp_path / "combo.safetensors", on_event=events.append)
    assert [type(event) for event in events] == [Note] and str(silent) in events[0].text
    assert read_metadata(tmp_path / "combo.safetensors")["kind"] == "bundle"
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
    with pytest.raises(SceditError, match="--out .*combo.pt: a tuner file ends in .safetensors"):
        merge([one], out=tmp_path / "combo.pt")
    out.write_bytes(b"mine")
    with pytest.raises(SceditError, match="--out .*combo.safetensors exists already"):
        merge([one], out=out)
    assert out.read_bytes() == b"mine"
    merge([f"{one}:2"], out=out, overwrite=True)
    assert type(load_tuner(out)) is SCTuner


def test_take_drop_and_rescale_edit_a_bundle(saved, tmp_path):
    files = [saved("canny"), saved("depth", seed=2), saved(seed=3)]
    combo = tmp_path / "combo.safetensors"
    merge([f"{files[0]}:0.5", f"{files[1]}:0.8", str(files[2])], out=combo)

    def edit(name: str, **options) -> list[tuple[str | None, float]]:
        result = merge([str(combo)], out=tmp_path / f"{name}.safetensors", **options)
        assert result.max_difference < 1e-5
        loaded = load_tuner(result.out)
        tuners = list(zip(loaded.tuners, loaded.scales, strict=True)) if isinstance(loaded, Bundle) else [(loaded, 1.0)]
        return [(tuner.condition, scale) for tuner, scale in tuners]

    assert edit("one", take=["depth"]) == [("depth", 0.8)]
    assert edit("two", take=["canny", "sc"]) == [(None, 1.0), ("canny", 0.5)]
    assert edit("three", drop=["sc", "canny"], rescale={"depth": 1.0}) == [("depth", 1.0)]
    assert type(load_tuner(tmp_path / "three.safetensors")) is CSCTuner
    assert edit("four", rescale={"canny": -2.0}) == [(None, 1.0), ("canny", -2.0), ("depth", 0.8)]
    assert edit("five", take=["sc"], rescale={"sc": 0.5}) == [(None, 1.0)]
    half = load_tuner(tmp_path / "five.safetensors")
    torch.testing.assert_close(half.maps[0].up.weight, 0.5 * load_tuner(files[2]).maps[0].up.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"take": ["pose"]}, "--take pose: no tuner of that name .*here are canny, sc"),
        ({"drop": ["pose"]}, "--drop pose: no tuner of that name"),
        ({"rescale": {"pose": 1.0}}, "--rescale pose: no tuner of that name"),
        ({"rescale": {"canny": float("nan")}}, "a scale is nan"),
        ({"take": ["sc"], "drop": ["canny"]}, "--take and --drop together"),
        ({"drop": ["sc", "canny"]}, "--drop leaves nothing to merge"),
        ({"rank": 0}, "--rank 0: at least one"),
        ({"rank": 4, "take": ["canny"]}, "--rank compresses an SC-Tuner, and there is none here"),
        ({"activations": "scenes"}, "there is no --rank"),
        ({"rank": 4, "activations": "scenes"}, "is a tuner for another base, not for scenes"),
        ({"dtype": "int8"}, "--dtype int8: not known .*fp16"),
        ({"format": "comfy"}, "--format comfy: not known"),
        ({"format": "ms-swift"}, "ms-swift has no CSC-Tuners"),
        ({"up_blocks": [3, 3, 3, 3]}, "--up-blocks is of no use in the format scedit"),
        ({"average": True}, "canny.safetensors .canny. and .*sc.safetensors .sc. are of different conditions"),
    ],
)
def test_options_that_do_not_fit(saved, tmp_path, options, message):
    files = [str(saved("canny")), str(saved())]
    with pytest.raises(SceditError, match=message) as error:
        merge(files, out=tmp_path / "combo.safetensors", **options)
    assert error.value.exit_code == 2 and error.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canny.safetensors", "sc.safetensors"]


def test_rescaling_one_of_two_style_tuners_is_refused(saved, tmp_path):
    with pytest.raises(SceditError, match="--rescale sc: there are several such tuners"):
        merge([str(saved(name="a")), str(saved(name="b"))], out=tmp_path / "c.safetensors", rescale={"sc": 0.5})


def test_an_average_is_told_to_be_inexact(saved, tmp_path):
    one, two = saved("canny", "one"), saved("canny", "two", seed=2)
    events = []
    out = tmp_path / "mean.safetensors"
    result = merge([f"{one}:3", str(two)], out=out, average=True, on_event=events.append)
    assert "not exact" in events[0].text
    assert result.kind == "csc" and result.average and result.document()["average"] is True
    mean = load_tuner(out)
    expected = 0.75 * load_tuner(one).maps[2].down.weight + 0.25 * load_tuner(two).maps[2].down.weight
    torch.testing.assert_close(mean.maps[2].down.weight, expected)
    assert result.max_difference > 0.01  # random tuners: the mean of their weights is far from their mean
    assert mean.metadata["merge.average"] == "true"
    with pytest.raises(SceditError, match="--average: the scales add up to 0"):
        merge([f"{one}:1", f"{two}:-1"], out=tmp_path / "zero.safetensors", average=True)
    assert not (tmp_path / "zero.safetensors").exists()


def test_rank_compresses_and_says_how_well(saved, tmp_path):
    one, canny, out = saved(), saved("canny"), tmp_path / "small.safetensors"
    events = []
    result = merge([str(one), f"{one}:0.5", str(canny)], out=out, rank=6, on_event=events.append)
    assert [event.step for event in events if isinstance(event, Progress)] == list(range(1, 13))
    small = load_tuner(out)
    assert isinstance(small, Bundle) and small.tuners[0].hidden == (6,) * 12
    told = result.document()["rank"]
    assert told["rank"] == 6 and told["on"] == "the weights" and len(told["errors"]) == 12
    assert 0.001 < told["error"] < max(told["errors"]) < 1 and result.max_difference > 0.01
    assert float(small.metadata["merge.rank_error"]) == pytest.approx(told["error"], rel=0.01)
    exact = merge([str(one), f"{one}:0.5"], out=tmp_path / "exact.safetensors", rank=32)
    assert exact.compressed.error < 1e-5 and exact.max_difference < 1e-4
    merge([str(one)], out=tmp_path / "same.safetensors", rank=99, on_event=events.append)
    assert "takes nothing away" in events[-1].text


def test_rank_on_the_activations_of_a_base(tmp_path, monkeypatch):
    folder = tiny.pipeline_folder("sd15")
    base = load_base(folder)
    tuner = SCTuner.for_unet(base.unet)
    with torch.no_grad():
        for parameter in tuner.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    file = save_tuner(tuner, tmp_path / "style.safetensors")
    monkeypatch.setattr(job, "_PICTURES", 2)
    result = merge([str(file)], out=tmp_path / "small.safetensors", rank=4, activations=str(folder))
    blind = merge([str(file)], out=tmp_path / "blind.safetensors", rank=4)
    assert result.compressed.on == str(folder) and result.compressed.errors != blind.compressed.errors
    assert load_tuner(tmp_path / "small.safetensors").hidden == (4,) * 12
    assert base.fingerprint == load_base(folder).fingerprint


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp64", torch.float64)]
)
def test_dtype_reaches_the_file(saved, tmp_path, name, dtype):
    result = merge([str(saved("canny")), str(saved())], out=tmp_path / "half.safetensors", dtype=name)
    with safe_open(result.out, framework="pt") as opened:
        assert {opened.get_tensor(key).dtype for key in opened.keys()} == {dtype}
    assert (result.max_difference > 1e-4) == (dtype != torch.float64)


def test_values_that_a_dtype_does_not_hold(saved, tmp_path):
    one = str(saved())
    with pytest.raises(SceditError, match="too large for float16"):
        merge([f"{one}:1e6"], out=tmp_path / "combo.safetensors", dtype="fp16")
    with pytest.raises(SceditError, match="too large for float32"):
        merge([f"{one}:1e39"], out=tmp_path / "combo.safetensors")
    with pytest.raises(SceditError, match="edits are too large for float32"):
        merge([f"{saved('canny')}:1e300"], out=tmp_path / "combo.safetensors")
    with torch.no_grad():
        (tuner := load_tuner(one)).maps[1].up.bias[0] = torch.nan
    save_tuner(tuner, tmp_path / "broken.safetensors")
    with pytest.raises(SceditError, match="broken.safetensors: maps.1.up.bias holds values that are not numbers"):
        merge([one, str(tmp_path / "broken.safetensors")], out=tmp_path / "combo.safetensors")
    assert not (tmp_path / "combo.safetensors").exists()


def test_a_prediction_of_another_kind_is_refused(saved, tmp_path):
    one, two = saved(name="one", prediction_type="epsilon"), saved("canny", prediction_type="v_prediction")
    with pytest.raises(SceditError, match="different predictions: .*prediction epsilon.* and .*prediction v_pred"):
        merge([str(one), str(two)], out=tmp_path / "combo.safetensors")


@pytest.mark.parametrize("format", ["scepter", "ms-swift", "scedit-pytorch"])
@pytest.mark.parametrize("place", ["theirs.safetensors", "theirs.bin", "theirs"])
def test_other_programs_formats(unet, saved, tmp_path, format, place):
    one, two, out = saved(name="one"), saved(name="two", seed=2), tmp_path / place
    events = []
    result = merge([f"{one}:0.7", f"{two}:-0.5"], out=out, format=format, on_event=events.append)
    assert result.format == format and result.max_difference < 1e-5
    expected = edited(unet, [load_tuner(one), load_tuner(two)], [0.7, -0.5])
    torch.testing.assert_close(edited(unet, load_tuner(out)), expected, rtol=0, atol=1e-5)
    told = " ".join(event.text for event in events)
    needed = {"scepter": "DOWN_RATIO: 2", "ms-swift": "adapter_config.json", "scedit-pytorch": "rank=64"}[format]
    assert (needed in told) == (place != "theirs" or format == "scedit-pytorch")
    if place.endswith(".safetensors"):
        assert float(read_metadata(out)["merge.max_difference"]) == pytest.approx(result.max_difference, rel=0.01)


def test_scepters_bundles(saved, tmp_path):
    files = [f"{saved('canny')}:0.5", f"{saved('depth', seed=2)}:2", str(saved(seed=3))]
    with pytest.raises(SceditError, match="the canny tuner has the scale 0.5, which no file of scepter can say"):
        merge(files, out=tmp_path / "theirs.bin", format="scepter")
    assert not (tmp_path / "theirs.bin").exists()
    result = merge(files, out=tmp_path / "theirs", format="scepter")
    assert result.kind == "bundle" and result.max_difference < 1e-5
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
    merge([f"canny={plain[0]}"], out=out, overwrite=True)
    assert load_tuner(out).condition == "canny"


def test_the_same_condition_twice_may_be_averaged(saved, tmp_path):
    one, two = saved("canny", "one"), saved("canny", "two", seed=2)
    with pytest.raises(SceditError, match="add --average"):
        merge([str(one), str(two)], out=tmp_path / "combo.safetensors")


def test_up_blocks_where_nobody_said(tmp_path):
    file = save_tuner(SCTuner([8] * 6), tmp_path / "style.safetensors")
    with pytest.raises(SceditError, match="--up-blocks"):
        merge([str(file)], out=tmp_path / "w.bin", format="scedit-pytorch")
    merge([str(file)], out=tmp_path / "w.bin", format="scedit-pytorch", up_blocks=[2, 4])
    assert load_tuner(tmp_path / "w.bin").up_blocks == (2, 4)


def test_a_folder_that_came_out_wrong_does_not_appear(saved, tmp_path, monkeypatch):
    other = load_tuner(saved(name="other", seed=2))
    monkeypatch.setattr(job, "load_tuner", lambda *file: other)
    with pytest.raises(WorkFailed, match="differ"):
        merge([str(saved(name="one"))], out=tmp_path / "theirs", format="ms-swift")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "other.safetensors"]


def test_every_option_of_the_command_arrives(monkeypatch, tmp_path):
    calls = []

    def record(*args, **kwargs):
        calls.append(kwargs | {"tuners": args[0]})
        return job.MergeResult(tmp_path / "o.safetensors", "sc", [], 0.0)

    monkeypatch.setattr(job, "merge", record)
    options = "--average --take canny,sc --drop depth --rescale canny=0.5 --rescale sc=-1 --rank 8 --activations scenes"
    more = "--dtype fp16 --format ms-swift --up-blocks 3,3 --overwrite --json"
    answer = CliRunner().invoke(
        app, ["merge", "a.safetensors:0.5", "k=b", "--out", "o", *options.split(), *more.split()]
    )
    assert answer.exit_code == 0, answer.output
    calls[0].pop("on_event")
    assert calls[0] == {
        "tuners": ["a.safetensors:0.5", "k=b"],
        "out": Path("o"),
        "average": True,
        "take": ["canny", "sc"],
        "drop": ["depth"],
        "rescale": {"canny": 0.5, "sc": -1.0},
        "rank": 8,
        "activations": "scenes",
        "dtype": "fp16",
        "format": "ms-swift",
        "up_blocks": [3, 3],
        "overwrite": True,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rescale", "canny=much"], "'much' is no number"),
        (["--rescale", "canny"], "expected NAME=VALUE"),
        (["--up-blocks", "3,three"], "expected whole numbers"),
    ],
)
def test_what_the_command_cannot_read(options, message):
    answer = CliRunner().invoke(app, ["merge", "a.safetensors", "--out", "o.safetensors", *options])
    assert isinstance(answer.exception, SceditError) or answer.exit_code == 2
    assert message in answer.output or message in str(answer.exception)
