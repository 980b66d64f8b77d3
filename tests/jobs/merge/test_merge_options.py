from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from scedit_cli import Bundle, CSCTuner, SceditError, SCTuner, load_tuner, save_tuner
from scedit_cli.cli import app
from scedit_cli.jobs import merge as job
from scedit_cli.jobs.checks.merge import MergeRequest
from scedit_cli.models.base import load_base
from scedit_cli.utils.specs import TunerSpec
from tests import tiny
from tests.jobs.merge.conftest import merge
from tests.recorder import Progress, Recorder


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
        ({"take": ["pose"]}, "`take` pose: no tuner of that name .*here are canny, sc"),
        ({"drop": ["pose"]}, "`drop` pose: no tuner of that name"),
        ({"rescale": {"pose": 1.0}}, "`rescale` pose: no tuner of that name"),
        ({"rescale": {"canny": float("nan")}}, "a scale is nan"),
        ({"take": ["sc"], "drop": ["canny"]}, "`take` and `drop` together"),
        ({"drop": ["sc", "canny"]}, "`drop` leaves nothing to merge"),
        ({"rank": 0}, "`rank` 0: at least one"),
        ({"rank": 4, "take": ["canny"]}, "`rank` compresses an SC-Tuner, and there is none here"),
        ({"activations": "scenes"}, "there is no `rank`"),
        ({"rank": 4, "activations": "scenes"}, "is a tuner for another base, not for scenes"),
        ({"dtype": "int8"}, "`dtype` int8: not known .*fp16"),
        ({"format": "comfy"}, "`format` comfy: not known"),
        ({"format": "ms-swift"}, "ms-swift has no CSC-Tuners"),
        ({"up_blocks": [3, 3, 3, 3]}, "`up_blocks` is of no use in the format scedit"),
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
    with pytest.raises(SceditError, match="`rescale` sc: there are several such tuners"):
        merge([str(saved(name="a")), str(saved(name="b"))], out=tmp_path / "c.safetensors", rescale={"sc": 0.5})


def test_an_average_is_told_to_be_inexact(saved, tmp_path):
    one, two = saved("canny", "one"), saved("canny", "two", seed=2)
    events = []
    out = tmp_path / "mean.safetensors"
    result = merge([f"{one}:3", str(two)], out=out, average=True, reporter=Recorder(events.append))
    assert "not exact" in events[0].text
    assert result.kind == "csc" and result.average and result.document()["average"] is True
    mean = load_tuner(out)
    expected = 0.75 * load_tuner(one).maps[2].down.weight + 0.25 * load_tuner(two).maps[2].down.weight
    torch.testing.assert_close(mean.maps[2].down.weight, expected)
    assert result.max_difference > 0.01  # random tuners: the mean of their weights is far from their mean
    assert mean.metadata["merge.average"] == "true"
    with pytest.raises(SceditError, match="`average`: the scales add up to 0"):
        merge([f"{one}:1", f"{two}:-1"], out=tmp_path / "zero.safetensors", average=True)
    assert not (tmp_path / "zero.safetensors").exists()


def test_rank_compresses_and_says_how_well(saved, tmp_path):
    one, canny, out = saved(), saved("canny"), tmp_path / "small.safetensors"
    events = []
    result = merge([str(one), f"{one}:0.5", str(canny)], out=out, rank=6, reporter=Recorder(events.append))
    assert [event.step for event in events if isinstance(event, Progress)] == list(range(1, 13))
    small = load_tuner(out)
    assert isinstance(small, Bundle) and small.tuners[0].hidden == (6,) * 12
    told = result.document()["rank"]
    assert told["rank"] == 6 and told["on"] == "the weights" and len(told["errors"]) == 12
    assert 0.001 < told["error"] < max(told["errors"]) < 1 and result.max_difference > 0.01
    assert float(small.metadata["merge.rank_error"]) == pytest.approx(told["error"], rel=0.01)
    exact = merge([str(one), f"{one}:0.5"], out=tmp_path / "exact.safetensors", rank=32)
    assert exact.compressed.error < 1e-5 and exact.max_difference < 1e-4
    merge([str(one)], out=tmp_path / "same.safetensors", rank=99, reporter=Recorder(events.append))
    assert "takes nothing away" in events[-1].text


def test_rank_on_the_activations_of_a_base(edited, tmp_path, monkeypatch):
    folder = tiny.pipeline_folder("sd15")
    base = load_base(folder)
    tuner = tiny.trained(SCTuner.for_unet(base.unet))
    file = save_tuner(tuner, tmp_path / "style.safetensors")
    monkeypatch.setattr(job, "_PICTURES", 2)
    monkeypatch.setattr(job, "load_base", lambda place, device: base if place == str(folder) else None)
    before = edited(base.unet, [tuner])
    result = merge([str(file)], out=tmp_path / "small.safetensors", rank=4, activations=str(folder))
    blind = merge([str(file)], out=tmp_path / "blind.safetensors", rank=4)
    assert result.compressed.on == str(folder) and result.compressed.errors != blind.compressed.errors
    assert load_tuner(tmp_path / "small.safetensors").hidden == (4,) * 12
    assert torch.equal(edited(base.unet, [tuner]), before)  # nothing of the recording stays on the base


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


def test_every_option_of_the_command_arrives(monkeypatch, tmp_path):
    calls = []

    def record(request, reporter):
        calls.append(request)
        return job.MergeResult(tmp_path / "o.safetensors", "sc", [], 0.0)

    monkeypatch.setattr(job, "merge", record)
    monkeypatch.setattr("scedit_cli.jobs.checks.merge.check", lambda request: None)
    options = "--average --take canny,sc --drop depth --rescale canny=0.5 --rescale sc=-1 --rank 8 --activations scenes"
    more = "--device cpu --dtype fp16 --format ms-swift --up-blocks 3,3 --overwrite --json"
    answer = CliRunner().invoke(
        app, ["merge", "a.safetensors:0.5", "k=b", "--out", "o", *options.split(), *more.split()]
    )
    assert answer.exit_code == 0, answer.output
    assert calls == [
        MergeRequest(
            [TunerSpec("a.safetensors", 0.5), TunerSpec("b", conditions=("k",))],
            out=Path("o"),
            average=True,
            take=["canny", "sc"],
            drop=["depth"],
            rescale={"canny": 0.5, "sc": -1.0},
            rank=8,
            activations="scenes",
            device="cpu",
            dtype="fp16",
            format="ms-swift",
            up_blocks=[3, 3],
            overwrite=True,
        )
    ]


def test_loaded_tuners_are_merged_without_a_file(edited, unet, saved, tmp_path):
    one, two = load_tuner(saved(name="one")), load_tuner(saved("canny", seed=2))
    made = job.merge(MergeRequest([TunerSpec(one, 0.7), TunerSpec(two, -0.5)]))
    hint = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(9))
    expected = edited(unet, [one, two], [0.7, -0.5], canny=hint)
    torch.testing.assert_close(edited(unet, made.tuner, canny=hint), expected, rtol=0, atol=1e-5)
    assert made.out is None and made.document()["out"] is None and made.max_difference < 1e-5
    with pytest.raises(SceditError, match="`take` pose: no tuner of that name .*here are canny, sc") as error:
        job.merge(MergeRequest([TunerSpec(one), TunerSpec(two)], take=["pose"]))
    assert error.value.field == "take"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rescale", "canny=much"], "'much' is no number"),
        (["--rescale", "canny=nan"], "--rescale canny=nan: 'nan' is no number"),
        (["--rescale", "canny"], "--rescale canny: expected NAME=VALUE"),
        (["--up-blocks", "3,three"], "expected whole numbers"),
    ],
)
def test_what_the_command_cannot_read(options, message):
    answer = CliRunner().invoke(app, ["merge", "a.safetensors", "--out", "o.safetensors", *options])
    assert answer.exit_code == 2 and answer.stdout == ""
    assert answer.stderr.startswith("error: ") and message in answer.stderr
