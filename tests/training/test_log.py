from __future__ import annotations

import numpy as np
from PIL import Image, ImageColor

from scedit_cli.training.log import _HELD_OUT, as_lines, draw_curve, last_value, read_log, recent_loss, smoothed


def test_a_log_is_read_up_to_a_step_and_without_a_cut_line(tmp_path):
    entries = [{"step": step, "loss": step / 10} for step in (1, 2, 3)]
    file = tmp_path / "log.jsonl"
    file.write_text(as_lines(entries) + '{"step": 4, "lo')
    assert read_log(file) == entries
    assert read_log(file, until=2) == entries[:2]
    assert read_log(tmp_path / "none.jsonl") == []
    assert last_value(file, "loss") == 0.3 and last_value(file, "validation_loss") is None
    assert recent_loss(file, 2) == 0.25 and recent_loss(tmp_path / "none.jsonl") is None


def test_the_trend_neither_bends_nor_lags():
    assert np.allclose(smoothed(np.full(100, 0.3)), 0.3)
    ramp = np.arange(200.0)
    assert np.allclose(smoothed(ramp)[20:-20], ramp[20:-20])
    noise = np.random.default_rng(0).normal(size=500)
    assert smoothed(noise).std() < 0.4 * noise.std() and len(smoothed(np.array([1.0]))) == 1


def test_a_curve_is_drawn_of_any_length(tmp_path):
    for count in (1, 2, 300):
        lines = [{"step": step, "loss": 0.1} for step in range(1, count + 1)]
        lines[-1]["validation_loss"] = 0.2
        draw_curve(tmp_path / "loss.png", [*lines, {"step": count + 1, "loss": None}], "canny")
        assert Image.open(tmp_path / "loss.png").size == (960, 540)


def test_the_last_held_out_point_is_whole(tmp_path):
    lines = [{"step": step, "loss": 0.1 + step % 2} for step in range(1, 301)]
    lines[-1]["validation_loss"] = 0.6
    draw_curve(tmp_path / "loss.png", lines, "canny")
    drawn = np.asarray(Image.open(tmp_path / "loss.png").convert("RGB"))
    is_point = (drawn == ImageColor.getrgb(_HELD_OUT)).all(-1)
    heights = is_point.sum(0)[is_point.any(0)]
    assert heights[-1] < heights.max() - 2  # round at its right end


def test_a_title_is_no_formula(tmp_path):
    draw_curve(tmp_path / "loss.png", [{"step": 1, "loss": 0.1}], "a$^$: SC-Tuner on $\\b$")
    assert Image.open(tmp_path / "loss.png").size == (960, 540)
