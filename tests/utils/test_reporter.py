from __future__ import annotations

from scedit_cli.utils.reporter import SILENT
from tests.recorder import Note, Progress, Recorder, steps_to


def test_parts_are_reported_as_a_whole():
    steps = []
    for part in (0, 1):
        steps_to(steps.append).part(part, 2).progress(3, 3)
    assert steps == [(3, 6), (6, 6)]


def test_units_count_those_before():
    steps = []
    steps_to(steps.append).units(4, 10).progress(2, 3)
    assert steps == [(6, 10)]


def test_the_inner_stage_has_the_name():
    events = []
    stage = Recorder(events.append).stage("scenes")
    stage.progress(1, 2, values={"loss": 0.5})
    stage.progress(2, 2, "images")
    stage.note("done")
    assert events == [Progress("scenes", 1, 2, {"loss": 0.5}), Progress("images", 2, 2), Note("done")]


def test_silence(capsys):
    SILENT.stage("a").part(0, 2).progress(1, 1)
    SILENT.note("text")
    assert capsys.readouterr() == ("", "")
