from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from scedit_cli.cli import app
from scedit_cli.jobs import bench as job
from scedit_cli.utils.errors import SceditError


@pytest.fixture
def called(monkeypatch):
    """Calls the command; gives what the job was called with."""

    def call(*words: str) -> dict[str, object]:
        calls = []

        def record(**options):
            calls.append(options)
            return SimpleNamespace(
                document=dict, markdown=str, csv=str, tables=list, plot=None, worse=(), unwritten=None
            )

        monkeypatch.setattr(job, "bench", record)
        monkeypatch.setattr("scedit_cli.jobs.checks.bench.check", lambda options: None)
        answer = CliRunner().invoke(app, ["bench", *words])
        if isinstance(answer.exception, SceditError):
            raise answer.exception
        assert answer.exit_code == 0, answer.output
        calls[0].pop("reporter")
        return calls[0]

    return call


def test_every_option_of_the_command_arrives(called):
    words = """--methods sc,lora --base b --prediction epsilon --batch 3
        --resolution 128 --dtype bf16 --steps 7 --plot p.svg --estimate
        --device cpu --fits 8GiB --batches 1,4 --rounds 2 --compile --lora-rank 8 --lora-feed-forward --down-ratio 0.5
        --quality --tuner t:0.5 --tuner u --scenes 9 --seconds 1.5 --seeds 4 --learning-rate sc=0.003
        --learning-rate full=1e-4 --keep k --sampling --show s.json --skips --skip-scale 0 --skip-noise 2
        --baseline b.json --tolerance 7% --out o.json --json"""
    assert called(*words.split()) == {
        "methods": ["sc", "lora"], "base": "b", "prediction": "epsilon", "batch": 3,
        "resolution": 128, "dtype": "bf16", "steps": 7,
        "plot": Path("p.svg"), "estimate": True, "device": "cpu", "fits": "8GiB", "batches": [1, 4], "rounds": 2,
        "compiled": True, "lora_rank": 8, "lora_feed_forward": True, "down_ratio": 0.5, "quality": True,
        "tuners": ["t:0.5", "u"], "scenes": 9, "seconds": 1.5, "seeds": 4,
        "learning_rates": {"sc": 0.003, "full": 1e-4}, "keep": Path("k"),
        "sampling": True, "show": Path("s.json"), "skips": True, "skip_scale": 0.0,
        "skip_noise": 2.0, "baseline": Path("b.json"), "tolerance": "7%", "out": Path("o.json"),
    }  # fmt: skip


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
    assert called(*words.split())["plot"] == (plot and Path(plot))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--batches 1,many", "--batches 1,many: many is no batch size"),
        ("--batches 0", "--batches 0: 0 is no batch size"),
        ("--learning-rate sc", "--learning-rate sc:  is no learning rate"),
        ("--learning-rate sc=fast", "--learning-rate sc=fast: fast is no learning rate"),
        ("--learning-rate sc=1", "--learning-rate sc=1: 1 is no learning rate"),
        ("--json --csv", "--json and --csv both want stdout"),
    ],
)
def test_what_the_command_cannot_read(called, words, message):
    with pytest.raises((SceditError, AssertionError), match=message):
        called(*words.split())
