"""Nothing that a person typed or a file holds is interpreted on the screen: markup, emoji codes, links, formulas."""

from __future__ import annotations

import re
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from scedit_cli.benchmark.report import as_markdown
from scedit_cli.cli import app
from scedit_cli.cli.console import Screen
from scedit_cli.cli.option_names import in_options
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import check_writable
from scedit_cli.utils.markdown import plain

TEXTS = [
    ":fire:", ":red_heart-emoji:", "a:abc: b", "[red]x[/red]", "[link=http://a.b]x[/link]", "[/]", "[bold",
    "[@click=x]y", "\\[x]", "a\\", "\\", "$x$", "$$x_1$$", "<b>x</b>", "&amp;", "*x*", "**x**", "`x`", "_x_",
    "~~x~~", "{x}", "{task}",
    "%s", "%(x)s", "#x", "- x", "1. x", "http://a.b/c", "www.a.b", "a@b.c", "!x", "!!x", "---", "x  y",
]  # fmt: skip
CODES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


@pytest.fixture(params=["pipe", "terminal"])
def screen(request, monkeypatch):
    if request.param == "terminal":
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "200")
    return Screen


def test_texts_of_users_stay_in_a_verbatim_result(capsys):
    document = {"prompt": "a `seed` of grass"}
    Screen(as_json=True).result(document, [], verbatim=True)
    assert "a `seed` of grass" in capsys.readouterr().out
    Screen(as_json=True).result(document, [])
    assert "a --seed of grass" in capsys.readouterr().out


def test_a_generated_image_has_the_prompt_that_was_given(monkeypatch, capsys, tmp_path):
    from scedit_cli.generation.results import GeneratedImage, GenerateResult
    from scedit_cli.jobs import generate as job

    made = GenerateResult([GeneratedImage(0, "a `seed` of grass", tmp_path / "a.png")], None, "scenes", 1.0)
    monkeypatch.setattr(job, "generate", lambda **options: made)
    found = CliRunner().invoke(app, ["generate", "--prompt", "a `seed` of grass", "--out", str(tmp_path), "--json"])
    assert '"prompt": "a `seed` of grass"' in found.stdout


def test_an_argument_in_backquotes_is_shown_as_one_option():
    with pytest.raises(SceditError) as caught:
        check_writable("/proc/scedit/there", "`out`")
    assert caught.value.field == "out"
    assert in_options(caught.value.message, caught.value.field).startswith("--out /proc/scedit/there could not be")


@pytest.mark.parametrize("text", TEXTS)
def test_the_screen_shows_texts_letter_by_letter(text, screen, capsys):
    drawn = screen()
    with drawn:
        drawn.note(f"note {text}")
        drawn.progress(1, 1, f"stage {text}", {f"figure {text}": 1.0})
    drawn.result({}, [(f"name {text}", f"value {text}")])
    drawn.table({}, [f"head {text}", "b"], [[f"cell {text}", f"other {text}"]], texts=2)
    drawn.text({}, f"text {text}")
    drawn.warn(f"warning {text}")
    drawn.fail(SceditError(f"message {text}", f"what to do {text}"))
    raw = "".join(capsys.readouterr())
    shown = CODES.sub("", raw)
    for name in ("note", "stage", "figure", "name", "value", "head", "cell", "other", "text", "warning", "message"):
        assert re.search(rf"{name} {re.escape(text)}( |$)", shown, re.MULTILINE), (name, shown)
    assert f"hint: what to do {text}\n" in shown and "\x1b]" not in raw


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{}x"], "No such command {}"),
        (["train", "x{}"], "scedit train: no option takes x{}"),
        (["train", "--recipe", "x{}"], "there is no recipe x{}"),
        (["train", "--recipe", "canny", "--set", "x{}"], "--set x{}: expected"),
        (["generate", "--cond", "canny=x{}:0:0-2"], "--cond canny=x{}:0:0-2: '0-2' is no part of the steps"),
        (["bench", "--methods", "x{}"], "--methods x{}: not known"),
    ],
    ids=lambda value: "",
)
def test_usage_errors_show_what_was_typed(arguments, told, text, capsys):
    if text[0] == "-" and arguments[0] == "{}x":
        pytest.skip("an option")
    with pytest.raises(SystemExit) as ended:
        get_command(app).main([each.replace("{}", text) for each in arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert told.replace("{}", repr(f"{text}x") if "command" in told else text) in said


@pytest.mark.parametrize("name", ["prepare", "annotate", "train", "generate", "merge", "bench"])
def test_the_help_shows_its_own_texts_whole(name, monkeypatch):
    """Typer takes square brackets in helps for rich's markup."""
    monkeypatch.setenv("COLUMNS", "1000")
    shown = re.sub(r"\s+", " ", CliRunner().invoke(app, [name, "--help"]).stdout)
    for parameter in get_command(app).commands[name].params:
        assert re.sub(r"\s+", " ", (parameter.help or "").replace("\\[", "[")) in shown
        assert not parameter.help or "[" not in parameter.help.replace("\\[", "")


def test_markdown_escapes_what_renderers_interpret():
    for text, expected in {
        ":fire:": r"\:fire:", "a: b": "a: b", "12:30": "12:30", "$x$": r"\$x\$", "http://a.b": r"http\://a.b",
        "www.a.b": r"www\.a.b", "a@b.c": r"a\@b.c", "- x": r"\- x", "+ x": r"\+ x", "1. x": r"1\. x", "1) x": r"1\) x",
        "---": r"\---", "a - b": "a - b", "<b>": "&lt;b&gt;", "&amp;": "&amp;amp;", "0.5": "0.5", "10.5": "10.5",
    }.items():  # fmt: skip
        assert plain(text) == expected
    assert as_markdown(["a", "b"], [["*x* | y", "-1 %"]]).splitlines()[2] == r"| \*x\* \| y | -1 % |"


def test_figures_take_no_text_for_a_formula(tmp_path):
    from scedit_cli.benchmark.compare import Costs
    from scedit_cli.benchmark.config import BenchConfig, Figures
    from scedit_cli.benchmark.plot import draw

    figures = [Figures(name, trainable_parameters=1, peak_memory=1) for name in ("$x^2$", "$")]
    draw(tmp_path / "plot.svg", [Costs(BenchConfig("$y_1$", 1, 64, "fp32", "cpu"), figures)])
    svg = (tmp_path / "plot.svg").read_text("utf-8")
    assert "$x^2$" in svg and "$y_1$" in svg and sys.getsizeof(svg) > 1000
    draw(tmp_path / "again.svg", [Costs(BenchConfig("$y_1$", 1, 64, "fp32", "cpu"), figures)])
    assert (tmp_path / "again.svg").read_text("utf-8") == svg
