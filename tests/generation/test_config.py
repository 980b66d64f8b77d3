from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import scedit_cli.jobs
from scedit_cli.cli import app
from scedit_cli.generation.config import Request
from scedit_cli.utils.errors import SceditError

EVERYTHING = Request(
    prompts=["a red cube", "b"], prompts_file="p.txt", negative="fog", seed="1-3,7", num=2, conds=["canny=a.png:0.5"],
    conds_from=["color=b.png"], params=["color.cells=4"], weights="w", masks=["canny=m.png"],
    tuners=["style:0.5", "t"], scales=["style=2"], sweeps=["canny=0,1"], base="b@2", vae="v", dtype="bf16", steps=7,
    guidance=3.5, prediction="epsilon", any_base=True, guidance_rescale=0.7, guidance_span="0.1-0.8", scheduler="LCM",
    width=64, height=128, resize="fit", image="i.png", strength=0.4, inpaint="m.png", outpaint="8", weighted=True,
    vae_slicing=True, vae_tiling=True, offload=True, compile=True, batch_size=3,
    device="cpu",
)  # fmt: skip


def test_every_field_is_an_option_and_every_option_arrives(monkeypatch):
    said = []
    result = SimpleNamespace(document=dict, summary=list)
    job = SimpleNamespace(generate=lambda request, **options: said.append((request, options)) or result)
    monkeypatch.setattr(scedit_cli.jobs, "generate", job, raising=False)
    for name in ("check", "check_page"):
        monkeypatch.setattr(f"scedit_cli.jobs.checks.generate.{name}", lambda *args, **options: None)
    assert set(EVERYTHING.said()) == {field.name for field in fields(Request)}
    output = ["--from", "x.png", "--out", "o", "--name", "{seed}", "--grid", "--score", "--overwrite"]
    answer = CliRunner().invoke(app, ["generate", *EVERYTHING.words(), *output, "--quiet"])
    assert answer.exit_code == 0, answer.output
    ((request, options),) = said
    assert {name: str(value) for name, value in request.said().items()} == {
        name: str(value) for name, value in EVERYTHING.said().items()
    }
    options.pop("reporter")
    assert {name: str(value) for name, value in options.items()} == {
        "from_file": "x.png", "out": "o", "template": "{seed}", "grid": "True", "score": "True", "overwrite": "True"
    }  # fmt: skip


def test_the_page_gets_its_options(monkeypatch):
    calls = []
    job = SimpleNamespace(serve=lambda request, **options: calls.append((request, options)))
    monkeypatch.setattr(scedit_cli.jobs, "generate", job, raising=False)
    for name in ("check", "check_page"):
        monkeypatch.setattr(f"scedit_cli.jobs.checks.generate.{name}", lambda *args, **options: None)
    invoke = CliRunner().invoke
    assert invoke(app, ["generate", "--ui", "--tuner", "a"]).exit_code == 0
    assert invoke(app, ["generate", "--ui", "--host", "0.0.0.0", "--port", "99", "--out", "o"]).exit_code == 0
    (request, first), (_, second) = calls
    assert request.said() == {"tuners": ["a"]}
    assert (first["host"], first["port"], first["out"]) == ("127.0.0.1", None, None)
    assert (second["host"], second["port"], str(second["out"])) == ("0.0.0.0", 99, "o")
    assert "--grid has no effect on the page" in invoke(app, ["generate", "--ui", "--grid"]).output
    for option in (["--host", "0.0.0.0"], ["--port", "99"]):
        assert f"{option[0]} is of the page" in invoke(app, ["generate", *option]).output


def test_what_is_said_goes_over_what_was():
    before = Request(prompts=["a"], seed=3, guidance=2.0, weighted=True)
    assert Request(seed=4, guidance=0.0).over(before) == Request(prompts=["a"], seed=4, guidance=0.0, weighted=True)
    assert Request(prompts_file="p.txt").over(before).prompts == ()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"guidance_rescale": 1.5}, "--guidance-rescale is 1.5"),
        ({"guidance": -1}, "--guidance is -1"),
        ({"guidance_span": "0.5-0.2"}, "--guidance-span: '0.5-0.2' is no part of the steps"),
        ({"strength": 0.5}, "--strength needs a picture to start from"),
        ({"inpaint": "m.png"}, "--inpaint needs a picture"),
        ({"outpaint": "8"}, "--outpaint needs a picture"),
        ({"image": "i.png", "strength": 0.0}, "--strength is 0.0"),
        ({"image": "i.png", "outpaint": "8,8"}, "--outpaint 8,8: no margins"),
        ({"image": "i.png", "outpaint": "0"}, "--outpaint 0: no margins"),
        ({"resize": "squash"}, "--resize squash: not known"),
        ({"prediction": "eps"}, "--prediction eps: not known"),
        ({"dtype": "int8"}, "--dtype int8: not known"),
        ({"batch_size": 0}, "--batch is 0"),
        ({"masks": ["left.png"]}, "--mask left.png: expected NAME=VALUE"),
        ({"masks": ["canny=a.png", "canny=b.png"]}, "two masks for canny"),
        ({"scales": ["canny=1,2"]}, "--scale canny=1,2: several scales"),
        ({"sweeps": ["canny=0,much"]}, "--sweep canny=0,much: the scale 'much' is no number"),
    ],
)
def test_values_that_cannot_be(said, message):
    with pytest.raises(SceditError) as error:
        Request(**said).check()
    assert error.value.message.startswith(message) and error.value.hint
