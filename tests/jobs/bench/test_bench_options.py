from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from scedit_cli.benchmark.requests import (
    CostRequest,
    EarlierResult,
    EvaluationRequest,
    Held,
    LearningRequest,
    Output,
    Request,
    SamplingRequest,
    Sizes,
    SkipsRequest,
)
from scedit_cli.cli import app
from scedit_cli.cli.bench_request import request_of
from scedit_cli.inference.sampling_options import SamplingOptions
from scedit_cli.jobs import bench as job
from scedit_cli.jobs.checks.bench import check
from scedit_cli.scenes import shipped_tuner
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.specs import TunerSpec
from tests.jobs.bench.conftest import bench


@pytest.fixture
def called(monkeypatch):
    """Calls the command; gives what the job was called with."""

    def call(*words: str) -> tuple[Request, Output]:
        calls = []

        def record(request, output, reporter):
            calls.append((request, output))
            return SimpleNamespace(
                document=dict, markdown=str, csv=str, tables=list, plot=None, worse=(), unwritten=None, is_first=True
            )

        monkeypatch.setattr(job, "bench", record)
        monkeypatch.setattr("scedit_cli.jobs.checks.bench.check", lambda request, output: None)
        answer = CliRunner().invoke(app, ["bench", *words])
        if isinstance(answer.exception, SceditError):
            raise answer.exception
        assert answer.exit_code == 0, answer.output
        return calls[0]

    return call


SIZES = "--lora-rank 8 --lora-feed-forward --down-ratio 0.5 --methods sc,lora"


@pytest.mark.parametrize(("words", "request_"), [
    (f"""--base b --batch 3 --resolution 128 --dtype bf16 --device cpu --steps 7 --rounds 2 --compile {SIZES}
     --fits 8GiB --batches 1,4""",
     CostRequest("b", ("sc", "lora"), 3, 128, "bf16", "cpu", 7, 2, True, Sizes(8, True, 0.5), fits=2**33,
                 batches=[1, 4])),
    ("--estimate --base b --device cuda --quantize int4 --offload encoder --with vae,text",
     CostRequest("b", device="cuda", held=Held("int4", "encoder", ["vae", "text"]), batches=(1, 16), estimate=True)),
    ("--sampling --base b --resolution 64 --dtype bf16 --steps 3", SamplingRequest("b", 64, "bf16", None, 3)),
    ("""--skips --base b --prediction epsilon --resolution 64 --dtype bf16 --device cpu --steps 3 --scenes 9
     --skip-scale 0 --skip-noise 2""", SkipsRequest("b", "epsilon", 64, "bf16", "cpu", 3, 9, 0.0, 2.0)),
    (f"""--quality --device cpu --batch 3 --steps 7 --seconds 1.5 --seeds 4 --scenes 9 --learning-rate sc=0.003
     --learning-rate full=1e-4 --keep k {SIZES}""",
     LearningRequest(("sc", "lora"), "cpu", 3, 7, 1.5, 4, 9, {"sc": 0.003, "full": 1e-4}, Sizes(8, True, 0.5),
                     Path("k"))),
    ("""--quality --tuner t:0.5 --tuner canny=u --against none --base b --data d --protocol controlnet++ --images 9
     --batch 3 --steps 7 --guidance 2 --control-guidance 1.5 --scheduler DDIM --seed 4 --prediction epsilon --dtype bf16 --device cpu
     --weights w --clip c --inception i.pt --keep k""",
     EvaluationRequest(
         [TunerSpec("t", 0.5), TunerSpec("u", conditions=("canny",))], [], "b", "d", "controlnet++", 9,
         SamplingOptions(7, 2.0, 1.5, "DDIM", 4, 3), "epsilon", "bf16", "cpu", Path("w"), Path("c"), Path("i.pt"),
         Path("k"),
     )),
    ("--quality --tuner none --scenes 9", EvaluationRequest([], images=9)),
    ("--show s.json", EarlierResult(Path("s.json"))),
])  # fmt: skip
def test_every_option_of_the_command_arrives(called, words, request_):
    assert called(*words.split())[0] == request_


def test_what_is_done_with_the_result_arrives(called):
    words = "--plot p.svg --baseline b.json --tolerance 7% --out o.json --overwrite --json"
    assert called(*words.split())[1] == Output(Path("p.svg"), Path("o.json"), Path("b.json"), 0.07, True)


@pytest.mark.parametrize(
    ("words", "plot"),
    [
        ("", "bench.png"),
        ("--estimate", "bench.png"),
        ("--quality", "quality.png"),
        ("--skips", "skips.png"),
        ("--quality --tuner t", None),
        ("--sampling", None),
        ("--show s.json", None),
        ("--json", None),
        ("--markdown", None),
        ("--csv", None),
    ],
)
def test_where_a_picture_is_drawn_unasked(called, words, plot):
    assert called(*words.split())[1].plot == (plot and Path(plot))


def test_a_picture_drawn_unasked_replaces_none(called, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for plot in ("bench.png", "bench-2.png", "bench-3.png"):
        assert called()[1].plot == Path(plot)
        Path(plot).touch()
    assert called("--overwrite")[1].plot == Path("bench.png")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--batches 1,many", "--batches 1,many: many is no batch size"),
        ("--batches 0", "--batches 0: 0 is no batch size"),
        ("--learning-rate sc", "--learning-rate sc:  is no learning rate"),
        ("--learning-rate sc=fast", "--learning-rate sc=fast: fast is no learning rate"),
        ("--learning-rate sc=1", "--learning-rate sc=1: 1 is no learning rate"),
        ("--sampling --scenes 64", "--scenes does nothing without --plot"),
        ("--json --csv", "--json and --csv both want stdout"),
    ],
)
def test_what_the_command_cannot_read(called, words, message):
    with pytest.raises((SceditError, AssertionError), match=message):
        called(*words.split())


@pytest.mark.parametrize(
    "options", [{}, {"sampling": True}, {"skips": True}, {"quality": True, "methods": ["sc"]}, {"fits": "16GiB"}]
)
def test_several_processes_that_would_measure_at_once_are_refused(faked, monkeypatch, tmp_path, options):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SceditError, match="measures in one process, and 2 were started") as error:
        bench(**options)
    assert error.value.exit_code == 2 and "--tuner" in error.value.hint
    assert not faked["calls"] and not list(tmp_path.iterdir())


def test_several_processes_may_evaluate_a_tuner_or_estimate(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for options in ({"quality": True, "tuners": [str(shipped_tuner("canny"))]}, {"estimate": True}):
        check(*request_of(options))
