"""The command line's texts become objects, the objects' fields options, and back."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import scedit_cli.jobs
from scedit_cli.cli import app
from scedit_cli.cli.generate_request import command_line, generation_config
from scedit_cli.cli.option_names import in_options, option_of
from scedit_cli.cli.parsing import parse_control, parse_seeds
from scedit_cli.generation.config import BaseConfig, GenerationConfig, InitImage, OutputConfig, Overrides, Prompt
from scedit_cli.inference.config import Control, SamplerConfig
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.specs import TunerSpec, parse_tuner

WORDS = """
    --prompt 'a red cube' --prompt b --negative fog --weighted --seed 1-3,7
    --cond canny=a.png:0.5:0-0.5 --cond-from color=b.png --param color.cells=4 --weights w --tuner style:0.5 --tuner t
    --mask canny=m.png --scale style=2 --sweep canny=0,1 --resize fit --base b@2 --any-base --prediction epsilon --vae v
    --steps 7 --guidance 3.5 --control-guidance 2 --guidance-rescale 0.7 --guidance-span 0.1-0.8 --scheduler LCM
    --width 64 --height 128
    --image i.png --strength 0.4 --inpaint n.png --outpaint 8 --out o --name '{seed}' --grid --score --overwrite
    --batch 3 --dtype bf16 --device cpu --vae-slicing --vae-tiling --offload models --compile --unet graph --reuse 3
"""
CONFIG = GenerationConfig(
    prompts=[Prompt("a red cube"), Prompt("b")],
    base=BaseConfig("b@2", "v", "epsilon", "bf16", "cpu", True, True, True, "models", True, unet=Path("graph")),
    tuners=[TunerSpec("style", 0.5), TunerSpec("t")],
    controls=[
        Control("canny", Path("a.png"), scale=0.5, end=0.5, weights=Path("w")),
        Control("color", photo=Path("b.png"), params={"cells": "4"}, weights=Path("w")),
    ],
    overrides=Overrides({"style": 2.0}, {"canny": (0.0, 1.0)}, {"canny": Path("m.png")}),
    init=InitImage(Path("i.png"), 0.4, Path("n.png"), (8, 8, 8, 8)),
    seeds=(1, 2, 3, 7),
    sampler=SamplerConfig(7, 3.5, 2.0, 0.7, (0.1, 0.8), "LCM", "fog", True, 64, 128, "fit", batch_size=3, reuse=3),
    out=OutputConfig(Path("o"), "{seed}", True, True, True),
)


@pytest.fixture
def called(monkeypatch):
    """What the command calls its job with, whose checks find no fault."""
    calls = []
    result = SimpleNamespace(document=dict, summary=list)
    job = SimpleNamespace(
        generate=lambda **options: calls.append(options) or result,
        serve=lambda config, **options: calls.append(options | {"config": config}),
    )
    monkeypatch.setattr(scedit_cli.jobs, "generate", job, raising=False)
    for name in ("check", "check_page"):
        monkeypatch.setattr(f"scedit_cli.jobs.checks.generate.{name}", lambda config: None)
    return calls


def test_every_option_arrives_in_an_object(called):
    answer = CliRunner().invoke(app, ["generate", *shlex.split(WORDS), "--quiet"])
    assert answer.exit_code == 0, answer.output
    [options] = called
    del options["reporter"]
    assert GenerationConfig(**options) == CONFIG
    plain = GenerationConfig(out=OutputConfig(Path("pictures")))
    unchanged = {
        f"{part}.{name}" for part in ("base", "overrides", "sampler", "out")
        for name, value in vars(getattr(CONFIG, part)).items() if value == vars(getattr(plain, part))[name]
    }  # fmt: skip
    assert unchanged == {"base.fingerprint", "sampler.place", "sampler.frames", "out.fps"}  # of --from, and of videos
    videos = generation_config({"frames": 16, "fps": 9})
    assert (videos.sampler.frames, videos.out.fps) == (16, 9)
    untried = {"frames", "fps", "from", "prompts", "num", "ui", "host", "port", "json", "quiet", "debug"}
    option = re.compile(r"--([a-z-]+)")
    tried = set(option.findall(WORDS))
    declared = {name for each in get_command(app).commands["generate"].params for name in option.findall(each.opts[0])}
    assert declared == tried | untried


def test_the_page_gets_its_options(called):
    invoke = CliRunner().invoke
    assert invoke(app, ["generate", "--ui", "--tuner", "a"]).exit_code == 0
    assert invoke(app, ["generate", "--ui", "--host", "0.0.0.0", "--port", "99", "--out", "o"]).exit_code == 0
    first, second = called
    assert first["config"].tuners == [TunerSpec("a")]
    assert (first["host"], first["port"], first["config"].out.path) == ("127.0.0.1", None, Path("pictures"))
    assert (second["host"], second["port"], str(second["config"].out.path)) == ("0.0.0.0", 99, "o")
    for words in ("--grid", "--prompt a", "--prompts p.txt", "--negative a", "--seed 0", "--num 2", "--cond a.png",
                  "--param low=1", "--cond-from canny=a.png", "--scale a=1", "--sweep a=1", "--weights w", "--unet u"):  # fmt: skip
        assert f"{words.split()[0]} has no effect on the page" in invoke(app, ["generate", "--ui", *words.split()]).output
    for option in (["--host", "0.0.0.0"], ["--port", "99"]):
        assert f"{option[0]} is of the page" in invoke(app, ["generate", *option]).output


def test_a_configuration_becomes_its_command_line():
    options = {"tuners": ["t"], "weighted": True, "weights": Path("my w"), "steps": 3}
    config = replace(
        generation_config({"weighted": True}),
        prompts=[Prompt("a red cube")], tuners=[TunerSpec("t", 0.5)], seeds=[4],
        controls=[Control("canny", Path("a.png"), scale=0.5, end=0.5), Control("color", photo=Path("b.png"))],
        overrides=Overrides({"both": 2.0}),
    )  # fmt: skip
    line = command_line(options, config, Path("my out"))
    assert shlex.split(line)[2:] == [
        "--tuner", "t:0.5", "--weighted", "--weights", "my w", "--prompt", "a red cube", "--seed", "4",
        "--cond", "canny=a.png:0.5:0-0.5", "--cond-from", "color=b.png:1", "--scale", "both=2", "--out", "my out",
    ]  # fmt: skip


def test_fields_are_told_as_options():
    options = {
        "controls[0].scale": "--cond", "controls[2].photo": "--cond-from", "prompts[3].controls['canny'].image": "--prompts",
        "controls[0].params": "--param", "sampler.guidance_rescale": "--guidance-rescale", "base.model": "--base",
        "overrides.masks['a.b']": "--mask", "prompts[1].scales": "--prompts", "out": "--out", "out.name": "--name",
        "sampler.batch_size": "--batch", "init.mask": "--inpaint", "tuners[1]": "--tuner",
    }  # fmt: skip
    assert {field: option_of(field) for field in options} == options
    assert {option_of(key) for key in ("tuner.weights", "validation.metrics")} == {"tuner.weights", "validation.metrics"}
    assert in_options("sampler.steps is 0", "sampler.steps") == "--steps is 0"
    told = in_options("prompts[3].controls['canny'].image: gone", "prompts[3].controls['canny'].image")
    assert told == "--prompts, prompt 4, conditions canny: gone"
    assert in_options("prompts[0].scales cany: no", "prompts[0].scales") == "--prompts, prompt 1, scales cany: no"
    assert in_options("source: no folder", "source") == "--from: no folder"
    assert in_options("sources does not exist", "source") == "sources does not exist"
    assert in_options("`base.quantize=int4` or `quantize=int4`") == "--set base.quantize=int4 or --quantize int4"
    told = in_options("x: `steps=4` `guidance=1`, `any_base` or `Control('canny', image)`, not `Control('hed', photo)`")
    assert told == "x: --steps 4 --guidance 1, --any-base or --cond canny=FILE, not --cond-from hed=PHOTO"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("depth.png", Control("depth", Path("depth.png"))),
        ("canny=edges.png", Control("canny", Path("edges.png"))),
        ("depth.png:0.8", Control("depth", Path("depth.png"), scale=0.8)),
        ("depth.png:-.5", Control("depth", Path("depth.png"), scale=-0.5)),
        ("my-kind=a/b.png:1e-1:0-0.5", Control("my-kind", Path("a/b.png"), scale=0.1, start=0.0, end=0.5)),
        ("x/seg/a.png:1:.25-1", Control("seg", Path("x/seg/a.png"), scale=1.0, start=0.25, end=1.0)),
        ("canny=16:9.png", Control("canny", Path("16:9.png"))),
        ("C:/images/seg.png:2", Control("seg", Path("C:/images/seg.png"), scale=2.0)),
    ],
)
def test_fields_of_a_condition(text, expected):
    assert parse_control(text) == expected


@pytest.mark.parametrize("name", ["canny:2", "seg=b.png", "hed:1:0-1", "canny=x:3"])
def test_a_file_that_exists_keeps_its_colons_and_equal_signs(name, tmp_path, monkeypatch):
    folder = tmp_path / "depth"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / name).touch()
    assert parse_control(name).image == Path(name)
    expected = Control("seg", Path(name), scale=0.5, start=0.0, end=0.5)
    assert parse_control(f"seg={name}:0.5:0-0.5") == expected
    assert parse_tuner(f"{name}:0.5") == TunerSpec(name, 0.5)


def test_a_kind_that_nothing_tells_is_asked_for(tmp_path):
    (tmp_path / "a.png").touch()
    for text, option, message, hint in (
        (f"{tmp_path}/a.png", "--cond", "neither its name nor its folder's", f"--cond canny={tmp_path}/a.png"),
        ("gone.png", "--cond", "--cond: gone.png does not exist", "check the path"),
        ("depth.png", "--cond-from", "--cond-from depth.png: the kind of condition is missing", "canny=depth.png"),
    ):
        with pytest.raises(SceditError) as error:
            parse_control(text, option)
        assert message in error.value.message and error.value.hint.endswith(hint)


@pytest.mark.parametrize("tail", ["abc", "nan", "inf", "", "1:half", "1:0.5-0.5", "1:0.8-0.2", "1:0-1.5", "1:-1-1"])
def test_a_bad_field_is_named(tail, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "depth.png").touch()
    with pytest.raises(SceditError, match="--cond depth.png") as error:
        parse_control(f"depth.png:{tail}")
    assert tail.split(":")[-1] in error.value.message and error.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("style", TunerSpec("style")),
        ("style:0.5", TunerSpec("style", 0.5)),
        ("runs/canny/tuner.safetensors:-1", TunerSpec("runs/canny/tuner.safetensors", -1.0)),
        ("owner/repository", TunerSpec("owner/repository")),
    ],
)
def test_fields_of_a_tuner(text, expected):
    assert parse_tuner(text) == expected


def test_seeds_are_ten_thousand_at_most():
    assert len(parse_seeds("1-9999,7")) == 10_000
    for text in ("1-10001", "1-5000,1-5001", "0,1-10000"):
        with pytest.raises(SceditError, match="--seed: more than 10000 seeds"):
            parse_seeds(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_span": "0.5-0.2"}, "--guidance-span: '0.5-0.2' is no part of the steps"),
        ({"strength": 0.5}, "--strength needs an image to start from"),
        ({"inpaint": "m.png"}, "--inpaint needs an image"),
        ({"outpaint": "8"}, "--outpaint needs an image"),
        ({"image": "i.png", "outpaint": "8,8"}, "--outpaint 8,8: no margins"),
        ({"image": "i.png", "outpaint": "0"}, "--outpaint 0: no margins"),
        ({"image": "i.png", "outpaint": "1000000"}, "--outpaint 1000000: too wide (a margin is of"),
        ({"num": 0}, "--num is 0"),
        ({"num": 10**9}, "--num is 1000000000 (make at most 10000 at once, and go on with --seed 10000)"),
        ({"masks": ["left.png"]}, "--mask left.png: expected NAME=VALUE"),
        ({"masks": ["canny=a.png", "canny=b.png"]}, "two masks for canny"),
        ({"scales": ["canny=1,2"]}, "--scale canny=1,2: several scales"),
        ({"scales": ["canny=1", "canny=2"]}, "--scale canny=2: canny has one already"),
        ({"sweeps": ["canny=0,1", "canny=2"]}, "--sweep canny=2: canny has one already"),
        ({"sweeps": ["a=0,b"]}, "--sweep a=0,b: the scale 'b' is no number (give a number, as in canny=0,0.5,1)"),
        ({"scales": ["a=b"]}, "--scale a=b: the scale 'b' is no number (give a number, as in canny=0.5)"),
    ],
)
def test_texts_that_cannot_be(options, message):
    with pytest.raises(SceditError) as error:
        generation_config(options)
    assert str(error.value).startswith(message) and error.value.hint


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--guidance-rescale 1.5", "--guidance-rescale"),
        ("--guidance -1", "--guidance"),
        ("--control-guidance 0.5", "--control-guidance"),
        ("--control-guidance 2", "--control-guidance has no effect without a condition image"),
        ("--image i.png --strength 0", "--strength is 0.0"),
        ("--resize squash", "--resize squash: not known"),
        ("--prediction eps", "--prediction eps: not known"),
        ("--dtype int8", "--dtype int8: not known"),
        ("--batch 0", "--batch"),
    ],
)
def test_values_that_cannot_be_are_told_by_their_options(words, message):
    answer = CliRunner().invoke(app, ["generate", *words.split()])
    assert answer.exit_code == 2 and message in answer.stderr and "hint: " in answer.stderr


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("`up_blocks` is of no use", "--up-blocks is of no use"),
        ("`conditions=KIND=FOLDER` names it", "--cond KIND=FOLDER names it"),
        ("leave `overrides.masks` out", "leave --mask out"),
        ("or add `overwrite=True`", "or add --overwrite"),
        ("`train.steps=200`, as `data.path=a b`", "--set train.steps=200, as --set data.path=a b"),
        ("`annotate(a, b/c, kinds=canny, overwrite=True)`", "scedit annotate a, b/c --cond canny --overwrite"),
        ("`prepare(PHOTOS, out=DIR)`", "scedit prepare PHOTOS --out DIR"),
        ("`prepare(out=DIR)` with `cache`", "scedit prepare --out DIR with --cache"),
        ("`hf auth login` and base.vae", "`hf auth login` and base.vae"),
    ],
)
def test_arguments_become_options(said, shown):
    assert in_options(said) == shown and in_options({"a": [said, 1], "b": None}) == {"a": [shown, 1], "b": None}
