from __future__ import annotations

import json

import pytest

from scedit_cli.benchmark import sampling as room
from scedit_cli.benchmark.architecture import Architecture, architecture
from scedit_cli.core.attach import attached
from scedit_cli.utils.errors import SceditError
from tests import tiny
from tests.jobs.bench.conftest import bench
from tests.recorder import Progress, Recorder


@pytest.mark.parametrize(("family", "dtype"), [("sd15", "fp32"), ("sdxl", "bf16")])
def test_every_step_is_timed_with_what_it_says_attached(family, dtype, monkeypatch):
    acting, events = [], []
    timed = room.timed

    def watch(step, device):
        seconds = timed(step, device)
        acting.append(len(edits._active or edits.tuners) if (edits := attached(unets[0])) else 0)
        return seconds

    unets = []
    loaded = Architecture.unet
    monkeypatch.setattr(Architecture, "unet", lambda *args: unets.append(loaded(*args)) or unets[0])
    monkeypatch.setattr(room, "timed", watch)
    base = str(tiny.pipeline_folder(family))
    made = bench(sampling=True, base=base, resolution=64, dtype=dtype, steps=2, reporter=Recorder(events.append))
    assert [each.name for each in made.sampling] == ["base", "SC-Tuner", "CSC-Tuner", "3 CSC-Tuners", "ControlNet"]
    assert acting == [0, 0, 1, 1, 1, 1, 3, 3, 0, 0] * 3
    assert made.sampling[0].ratio == 1.0 and all(each.seconds > 0 and each.ratio > 0 for each in made.sampling)
    assert [event.step for event in events if isinstance(event, Progress)] == list(range(1, 16))
    assert attached(unets[0]) is None
    document = json.loads(json.dumps(made.document()))
    assert (document["base"], document["resolution"], document["dtype"], document["batch"]) == (base, 64, dtype, None)
    assert [each["name"] for each in document["sampling"]] == [each.name for each in made.sampling]
    ((title, (header, rows)),) = made.tables()
    assert title.endswith(f"on cpu, 64×64, {dtype}")
    assert len(rows) == 5 and all(len(row) == len(header) for row in rows) and rows[0][3] == "+0.0%"
    assert made.csv().startswith("name,seconds,ratio,ratio_quartiles.0,ratio_quartiles.1,once,clock_seconds\nbase,")


def test_steps_are_timed_at_the_size_of_the_base():
    base = str(tiny.pipeline_folder("sd15"))
    made = bench(sampling=True, base=base, steps=1)
    assert made.setting.resolution == architecture(base).resolution


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 70}, "--resolution is 70x70"),
        ({"dtype": "int8"}, "--dtype int8"),
        ({"methods": ["sc"]}, "--methods does nothing with --sampling"),
        ({"baseline": "bench.json"}, "--baseline does nothing with --sampling"),
        ({"skips": True}, "--sampling and --skips are two questions"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(SceditError, match=message):
        bench(sampling=True, **options)
