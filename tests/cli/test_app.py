from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
from typer.testing import CliRunner

import scedit_cli.jobs
from scedit_cli import __version__
from scedit_cli.cli import app
from scedit_cli.cli.console import Screen
from scedit_cli.conditions.config import AnnotatorConfig
from scedit_cli.data.sources import Images
from scedit_cli.generation.config import OutputConfig, Prompt
from scedit_cli.inference.config import Control
from scedit_cli.jobs.checks.prepare import Encoding, ImportRules, Scenes
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.reporter import Reporter
from scedit_cli.utils.specs import TunerSpec

ROOT = Path(__file__).parents[2]
COMMANDS = ("prepare", "annotate", "train", "generate", "merge", "bench")
MINIMAL = {
    "prepare": ["--scenes", "2", "--out", "scenes"],
    "annotate": ["photo.png", "--cond", "canny"],
    "train": ["--recipe", "canny.toml"],
    "generate": ["--prompt", "a cube"],
    "merge": ["a.safetensors", "--out", "combo.safetensors"],
    "bench": [],
}
DOCUMENT = {"out": "there", "loss": float("nan"), "images": [{"seed": 1}]}


def result(worse: list[str] = []) -> SimpleNamespace:
    return SimpleNamespace(
        document=lambda: DOCUMENT,
        summary=lambda: [("out", "a[b].png"), ("seconds", "1.0")],
        tables=lambda: [("here", (["method", "images/s"], [["sc", "31.2"], ["lora", "20.1"]]))],
        markdown=lambda: "| method |\n",
        csv=lambda: "method\n",
        plot=None,
        worse=worse,
        unwritten=None,
        is_first=True,
    )


def fake(monkeypatch: pytest.MonkeyPatch, name: str, work: Callable[..., object]) -> None:
    monkeypatch.setattr(scedit_cli.jobs, name, SimpleNamespace(**{name: work}), raising=False)
    if name != "annotate":  # which is light enough to check for itself
        monkeypatch.setattr(f"scedit_cli.jobs.checks.{name}.check", lambda *args, **options: None)


def call(name: str, *options: str) -> SimpleNamespace:
    return CliRunner().invoke(app, [name, *MINIMAL[name], *options])


def scedit(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scedit_cli", *args],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | environment, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_calls_its_job_as_the_job_wants_to_be_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = getattr(importlib.import_module(f"scedit_cli.jobs.{name}"), name)
    work = create_autospec(job, return_value=result())
    fake(monkeypatch, name, work)
    answer = call(name, "--json")
    assert answer.exit_code == 0, answer.output
    work.assert_called_once()
    assert json.loads(answer.stdout) == {"out": "there", "loss": None, "images": [{"seed": 1}]}


def test_options_arrive_as_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, dict[str, object]] = {}

    def record(name: str, *args: object, **kwargs: object) -> SimpleNamespace:
        calls[name] = kwargs | {"args": args}
        return result()

    for name in COMMANDS:
        fake(monkeypatch, name, partial(record, name))
    call("prepare", "--seed", "7", "--look", "pastel", "--held-out")
    scenes = calls["prepare"]["src"]
    words = ["prepare", "photos", "--out", "dataset", "--cache", "latents, text", "--vae", "my-vae", "--cond",
             "depth=maps", "--columns", "image=photo,text=words", "--columns", "seg=s", "--split", "rest",
             "--subset", "small", "--revision", "v1", "--square", "--upscale", "--strict", "--allow-captionless",
             "--drop-duplicates", "--shards", "100", "--size", "256", "--base", "b", "--precision", "fp16"]  # fmt: skip
    CliRunner().invoke(app, words)
    call(
        "annotate", "--cond", "depth,seg", "--param", "canny.low=50..90", "--out", "edges.png", "--annotator", "scene",
        "--seed", "4", "--sheet", "sheet.png", "--preview", "3", "--weights", "there", "--accept-license",
        "--device", "cpu", "--processes", "2", "--batch", "16",
    )  # fmt: skip
    call("train", "--set", "train.steps=3", "--set", "tuner.down_ratio=0.5", "--out", "there", "--resume", "--dry-run")
    call("generate", "--cond", "canny=a.png:0.5", "--cond", "hed.png", "--tuner", "t.safetensors", "--num", "3", "--grid")
    call("merge", "b.safetensors:0.5")
    call("bench", "--methods", "sc,lora", "--batch", "4", "--plot", "plot.png")
    (recipe,) = calls["train"].pop("args")
    assert (recipe.name, recipe.train.steps, recipe.tuner.down_ratio) == ("canny", 3, 0.5)
    expected = {
        "prepare": {
            "src": Images(
                "photos", {"depth": "maps"}, {"image": "photo", "text": "words", "seg": "s"}, "rest", "small", "v1"
            ),
            "out": Path("dataset"), "size": 256, "shards": 100, "rules": ImportRules(True, True, True, True, True),
            "encoding": Encoding(["latents", "text"], "b", "my-vae", "fp16"),
        },
        "annotate": {
            "args": (Path("photo.png"), ["canny", "depth", "seg"]), "out": Path("edges.png"), "canny": {"low": "50..90"},
            "sheet": Path("sheet.png"), "preview": 3, "overwrite": False, "depth": {},
            "config": AnnotatorConfig("scene", 4, Path("there"), True, "cpu", 2, 16),
        },
        "train": {"out": Path("there"), "resume": True, "overwrite": False, "dry_run": True, "push_to_hub": None},
        "generate": {
            "prompts": [Prompt("a cube")], "seeds": (0, 1, 2), "tuners": [TunerSpec("t.safetensors")],
            "controls": [Control("canny", Path("a.png"), scale=0.5), Control("hed", Path("hed.png"))],
            "out": OutputConfig(Path("pictures"), grid=True),
        },
    }
    assert scenes == Scenes(2, 7, "pastel", held_out=True)
    for name, arguments in expected.items():
        assert {key: calls[name][key] for key in arguments} == arguments
    [merged] = calls["merge"]["args"]
    assert merged.tuners == [TunerSpec("a.safetensors"), TunerSpec("b.safetensors", 0.5)]
    assert merged.out == Path("combo.safetensors")
    request, output = calls["bench"]["args"]
    assert (list(request.methods), request.batch, output.plot) == (["sc", "lora"], 4, Path("plot.png"))


def test_annotate_lists_kinds_annotators_and_licences() -> None:
    answer = CliRunner().invoke(app, ["annotate", "--list"])
    assert answer.exit_code == 0 and answer.stderr == ""
    rows = [line.split() for line in answer.stdout.splitlines()]
    assert ["canny", "opencv", "OpenCV", "none", "Apache-2.0", "yes"] in rows
    document = json.loads(CliRunner().invoke(app, ["annotate", "--list", "--json"]).stdout)
    assert {"kind", "annotator", "library", "weights", "licence", "commercial"} <= set(document["annotators"][0])


def test_of_processes_that_share_the_work_only_the_first_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_first in (True, False):
        outcome = SimpleNamespace(**vars(result()) | {"is_first": is_first})
        fake(monkeypatch, "annotate", lambda *args, outcome=outcome, **kwargs: outcome)
        assert bool(call("annotate").stdout) is is_first


def test_recipes_are_listed_and_shown() -> None:
    answer = CliRunner().invoke(app, ["train", "--list", "--json"])
    listed = {each["name"]: each for each in json.loads(answer.stdout)["recipes"]}
    assert listed["sdxl-depth"]["condition"] == "depth" and listed["style"]["kind"] == "sc"
    lines = CliRunner().invoke(app, ["train", "--list"]).stdout.splitlines()
    assert len(lines) == len(listed) and all(listed[line.split()[0]]["about"] in line for line in lines)
    shown = CliRunner().invoke(app, ["train", "--recipe", "canny", "--set", "train.steps=7", "--show"])
    assert tomllib.loads(shown.stdout)["train"]["steps"] == 7
    shown = CliRunner().invoke(app, ["train", "--recipe", "canny", "--show", "--json"])
    assert json.loads(shown.stdout)["tuner"]["condition"] == "canny"


def test_only_the_first_of_several_processes_writes_to_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*args: object, **kwargs: object) -> object:
        raise SceditError("no images", "find some")

    fake(monkeypatch, "train", work)
    monkeypatch.setenv("RANK", "1")
    answer = call("train", "--json")
    assert (answer.exit_code, answer.stdout, answer.stderr) == (2, "", "process 1: no images (find some)\n")
    fake(monkeypatch, "train", lambda *args, **kwargs: None)
    assert call("train", "--json").output == ""


def test_the_summary_goes_to_stdout_and_what_happens_to_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*args: object, reporter: Reporter, **kwargs: object) -> object:
        reporter.note("starting [at] the start")
        reporter.progress(600, 600, "training", {"loss": 0.08312, "images/s": 31.25})
        return result()

    fake(monkeypatch, "merge", work)
    answer = call("merge")
    assert answer.stdout == "out      a[b].png\nseconds  1.0\n"
    assert answer.stderr == "starting [at] the start\ntraining 600/600 · loss 0.08312 · images/s 31.25\n"
    quiet = call("merge", "--quiet")
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_a_stage_that_comes_again_is_timed_anew(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    now = iter(range(0, 10**6, 600))
    monkeypatch.setattr("scedit_cli.cli.console.time", SimpleNamespace(monotonic=lambda: next(now)))
    screen = Screen()
    for _ in range(2):  # ten minutes pass between all events
        for step in (1, 2):
            screen.progress(step, 4, "samples")
    left = [line for line in capsys.readouterr().err.splitlines() if line.startswith("samples 2/4")]
    assert len(left) == 2 and left[0] == left[1] and left[0].endswith("left")


def test_json_is_alone_on_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*args: object, reporter: Reporter, **kwargs: object) -> object:
        print("a library that prints")
        reporter.note("a note")
        return result()

    fake(monkeypatch, "merge", work)
    answer = call("merge", "--json")
    assert json.loads(answer.stdout)["out"] == "there"
    assert answer.stderr == "a library that prints\na note\n"
    assert call("merge", "--json", "--quiet").stdout == answer.stdout


def test_bench_draws_a_table_and_fails_when_it_got_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "bench", lambda *args, **kwargs: result())
    assert call("bench").stdout.split() == ["setting", "here", "method", "images/s", "sc", "31.2", "lora", "20.1"]
    assert call("bench", "--markdown").stdout == "| method |\n"
    assert call("bench", "--csv").stdout == "method\n"
    assert call("bench", "--csv", "--json").exit_code == 2
    fake(monkeypatch, "bench", lambda *args, **kwargs: result(["sc: images_per_second fell"]))
    answer = call("bench", "--json", "--baseline", "bench.json")
    assert answer.exit_code == 1
    assert json.loads(answer.stdout)["out"] == "there"
    assert answer.stderr == "sc: images_per_second fell\n"
    lost = SimpleNamespace(**vars(result()) | {"unwritten": SceditError("no room", "make some")})
    fake(monkeypatch, "bench", lambda *args, **kwargs: lost)
    answer = call("bench")
    assert answer.exit_code == 1 and "31.2" in answer.stdout and answer.stderr == "no room (make some)\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nonsense"], "nonsense"),
        (["--nonsense"], "--nonsense"),
        (["train"], "--recipe"),
        (["train", "--recipe"], "--recipe"),
        (["train", "--recipe", "canny", "--nonsense"], "--nonsense"),
        (["train", "--recipe", "cany.toml"], "did you mean canny?"),
        (["train", "--recipe", "canny.toml", "--set", "train.step=3"], "train.step: unknown; did you mean steps?"),
        (["generate", "--num", "0"], "--num"),
        (["generate", "--num", "many"], "--num"),
        (["merge", "--out", "combo.safetensors"], "FILE"),
        (["annotate", "a.png", "--cond", "canny", "--param", "50"], "--param 50: expected KIND.NAME=VALUE"),
        (["annotate", "--cond", "canny"], "no folder or image is named"),
        (["bench", "--tolerance", "-1"], "--tolerance"),
        (["train", "--recipe", "~no-such-user/a.toml"], "~no-such-user is nobody's home folder here"),
        (["prepare", "~no-such-user/a", "--out", "b"], "~no-such-user is nobody's home folder here"),
        (["generate", "--cond", "~no-such-user/canny.png"], "~no-such-user is nobody's home folder here"),
    ],
)
def test_wrong_usage_is_a_sentence_and_exit_code_2(args: list[str], message: str) -> None:
    answer = CliRunner().invoke(app, args)
    assert answer.exit_code == 2 and answer.stdout == ""
    first, second = answer.stderr.splitlines()
    assert first.startswith("error: ") and message in first and second.startswith("hint: ")
    answer = CliRunner().invoke(app, [args[0], "--json", *args[1:]])
    assert answer.exit_code == 2 and answer.stderr == ""
    assert message in json.loads(answer.stdout)["error"]["message"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_carries_examples(name: str) -> None:
    answer = CliRunner().invoke(app, [name, "--help"])
    assert answer.exit_code == 0
    assert "Examples:" in answer.stdout and f"scedit {name}" in answer.stdout.split("Examples:")[1]


def test_no_arguments_shows_the_help() -> None:
    assert CliRunner().invoke(app, []).stdout == CliRunner().invoke(app, ["--help"]).stdout != ""


def test_version() -> None:
    answer = scedit("--version")
    assert (answer.returncode, answer.stdout) == (0, f"scedit {__version__}\n")


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import atexit, sys; from scedit_cli.cli import main; sys.argv = ['scedit', '--help']\n"
        "heavy = ('torch', 'numpy', 'diffusers', 'transformers', 'matplotlib', 'PIL')\n"
        "atexit.register(lambda: print([name for name in heavy if name in sys.modules], file=sys.stderr))\n"
        "main()"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (answer.returncode, answer.stderr) == (0, "[]\n")
    assert "generate" in answer.stdout


def test_a_pipe_gets_neither_colours_nor_a_bar() -> None:
    for environment in ({}, {"NO_COLOR": "1"}):
        answer = scedit("train", "--recipe", "nothing.toml", **environment)
        assert answer.returncode == 2 and "\x1b" not in answer.stderr + answer.stdout


def test_no_color_is_respected_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[1;31m" in CliRunner().invoke(app, ["nonsense"]).stderr
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;31m" not in CliRunner().invoke(app, ["nonsense"]).stderr


def test_shell_completion() -> None:
    script = scedit("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert script.returncode == 0 and "_SCEDIT_COMPLETE" in script.stdout
    words = scedit(_SCEDIT_COMPLETE="complete_bash", COMP_WORDS="scedit an", COMP_CWORD="1")
    assert words.stdout.split() == ["annotate"]
