from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import scedit_cli.jobs
from scedit_cli.app import app
from scedit_cli.benchmark import sampling as room
from scedit_cli.core.attach import attached
from scedit_cli.errors import SceditError
from scedit_cli.jobs.progress import Progress
from scedit_cli.jobs.sampling import sampling
from tests import tiny


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_every_step_is_timed_with_what_it_says_attached(family, monkeypatch):
    acting, events = [], []
    timed = room._timed

    def watch(step, device):
        seconds = timed(step, device)
        acting.append(len(edits._active or edits.tuners) if (edits := attached(unets[0])) else 0)
        return seconds

    unets = []
    loaded = room._unet
    monkeypatch.setattr(room, "_unet", lambda *args: unets.append(loaded(*args)) or unets[0])
    monkeypatch.setattr(room, "_timed", watch)
    made = sampling(base=str(tiny.pipeline_folder(family)), resolution=64, steps=2, on_event=events.append)
    assert [each.name for each in made.results] == ["base", "SC-Tuner", "CSC-Tuner", "3 CSC-Tuners", "ControlNet"]
    assert acting == [0, 0, 1, 1, 1, 1, 3, 3, 0, 0] * 3
    assert made.results[0].ratio == 1.0 and all(each.seconds > 0 and each.ratio > 0 for each in made.results)
    assert [event.step for event in events if isinstance(event, Progress)] == list(range(1, 16))
    assert attached(unets[0]) is None
    document = json.loads(json.dumps(made.document()))
    assert (document["resolution"], document["rounds"], document["dtype"]) == (64, 2, "fp32")
    header, rows = made.table()
    assert len(rows) == 5 and all(len(row) == len(header) for row in rows) and rows[0][2] == "+0.0%"


def test_settings_that_cannot_be():
    with pytest.raises(SceditError, match="--resolution 72"):
        sampling(base=str(tiny.pipeline_folder("sd15")), resolution=72)
    with pytest.raises(SceditError, match="--dtype int8"):
        sampling(dtype="int8")


def test_the_option_calls_the_job(monkeypatch):
    from types import SimpleNamespace

    said = []
    result = SimpleNamespace(document=lambda: {"results": []}, table=lambda: (["one step"], []))
    fake = SimpleNamespace(sampling=lambda **options: said.append(options) or result)
    monkeypatch.setattr(scedit_cli.jobs, "sampling", fake, raising=False)
    words = ["--sampling", "--base", "sd15", "--resolution", "512", "--dtype", "bf16", "--steps", "3", "--json"]
    answer = CliRunner().invoke(app, ["bench", *words])
    assert answer.exit_code == 0 and json.loads(answer.stdout) == {"results": []}
    said[0].pop("on_event")
    assert said == [{"base": "sd15", "resolution": 512, "dtype": "bf16", "steps": 3}]
