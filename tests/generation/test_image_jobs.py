from __future__ import annotations

import json
from pathlib import Path

import pytest

from scedit_cli.cli.generate_request import generation_config
from scedit_cli.generation.image_jobs import jobs_of
from scedit_cli.utils.errors import SceditError


def _jobs(**options):
    return jobs_of(generation_config(options))


def test_every_prompt_with_every_seed_and_scale():
    jobs = _jobs(prompts=["a", "b"], seed="1,4-5", sweeps=["canny=0,1", "color=2"], scales=["style=3"])
    assert [(o.prompt, o.seed, dict(o.scales)) for o in jobs[:3]] == [
        ("a", 1, {"style": 3.0, "canny": 0.0, "color": 2.0}),
        ("a", 1, {"style": 3.0, "canny": 1.0, "color": 2.0}),
        ("a", 4, {"style": 3.0, "canny": 0.0, "color": 2.0}),
    ]
    assert len(jobs) == 2 * 3 * 2
    assert (jobs[1].row, jobs[1].column) == ("a · seed 1 · canny 1", "color 2")
    (alone,) = _jobs()
    assert (alone.prompt, alone.seed, alone.negative, alone.row, alone.column) == ("", 0, "", "", "seed 0")


def test_a_scale_beside_a_sweep_of_it_is_refused():
    config = generation_config({"sweeps": ["canny=0,1"], "scales": ["canny=0.5"]})
    with pytest.raises(SceditError, match="overrides.scales canny=0.5 has no effect beside a sweep of canny"):
        config.check()


def test_num_counts_on_from_one_seed():
    assert [order.seed for order in _jobs(seed=5, num=3)] == [5, 6, 7]
    with pytest.raises(SceditError, match="--num 2 and 3 seeds"):
        _jobs(seed="1-3", num=2)


@pytest.mark.parametrize("seed", ["-1", "x", "", "3-1", "1,,2", "1.5", "0-99999"])
def test_seeds_that_are_none(seed):
    with pytest.raises(SceditError, match="--seed"):
        _jobs(seed=seed)


def test_lines_of_a_text_file(tmp_path):
    (tmp_path / "p.txt").write_text("\ufeffa cube\n\n  a cone \n", encoding="utf-8")
    assert [o.prompt for o in _jobs(prompts=["first"], prompts_file=tmp_path / "p.txt")] == [
        "first",
        "a cube",
        "a cone",
    ]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_only_what_editors_write_ends_a_line(tmp_path, mark):
    """Not all that Unicode counts as ends of lines."""
    prompt = f"a red{mark}cube"
    for end in ("\n", "\r\n", "\r"):
        (tmp_path / "p.txt").write_bytes(f"{prompt}{end}b{end}".encode())
        assert [o.prompt for o in _jobs(prompts_file=tmp_path / "p.txt")] == [prompt, "b"]
    if mark >= " ":  # JSON writes the others as escapes
        (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n{}", encoding="utf-8")
        assert [o.prompt for o in _jobs(prompts_file=tmp_path / "p.jsonl")] == [prompt, ""]


def test_lines_of_a_jsonl_file(tmp_path):
    lines = [
        {"prompt": "a", "seed": [3, 4], "negative": "n"},
        {"prompt": "b", "conditions": {"canny": "edges.png:0.5:0-0.5", "color": None}, "scales": {"style": 2}},
        {},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    said = {"conds": ["canny=given.png", "x/color/1.png"], "negative": "fog", "seed": 9}
    jobs = _jobs(prompts_file=tmp_path / "p.jsonl", **said)
    assert [(o.prompt, o.seed, o.negative) for o in jobs] == [
        ("a", 3, "n"),
        ("a", 4, "n"),
        ("b", 9, "fog"),
        ("", 9, "fog"),
    ]
    assert [(c.kind, c.image) for c in jobs[0].controls] == [
        ("canny", Path("given.png")),
        ("color", Path("x/color/1.png")),
    ]
    (own,) = jobs[2].controls
    assert (own.kind, own.image, own.scale, own.end) == ("canny", tmp_path / "edges.png", 0.5, 0.5)
    assert jobs[2].scales == {"style": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1: no JSON"),
        ("[]", "line 1: no object"),
        ('{"prompt": "a"}\n\n{"promt": "a"}', "line 3: promt: unknown"),
        ('{"prompt": 3}', "line 1: prompt is 3"),
        ('{"seed": -3}', "line 1: seed is -3"),
        ('{"seed": true}', "line 1: seed is True"),
        ('{"scales": {"canny": "much"}}', "line 1: scales: canny is 'much'"),
        ('{"conditions": {"canny": 3}}', "line 1: conditions: canny is 3"),
        ("", "holds no prompts"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, message):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(SceditError, match="p.jsonl") as error:
        _jobs(prompts_file=tmp_path / "p.jsonl")
    assert message in error.value.message and error.value.hint


def test_a_prompts_file_that_is_no_text(tmp_path):
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("p.txt", "gone.txt"):
        with pytest.raises(SceditError, match=f"--prompts .*{name}"):
            _jobs(prompts_file=tmp_path / name)
