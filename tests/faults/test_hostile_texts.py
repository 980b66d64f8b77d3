"""Texts from strangers, in names, metadata and recipes, are shown letter by letter: on the screen, card and page."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.main import get_command

from scedit_cli.cli import app
from scedit_cli.cli.console import Screen
from scedit_cli.core.tuners import CSCTuner
from scedit_cli.core.weights import load_tuner, save_tuner
from scedit_cli.recipe import Recipe
from scedit_cli.training.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from scedit_cli.training.run_folder import RunFolder
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.markdown import block, plain, span
from tests import by_recipe
from tests.faults.ends import assert_same_end
from tests.faults.forked import run
from tests.faults.mutations import ESCAPES, HTML, MARKDOWN, NESTED, TEXTS
from tests.faults.small import EVERY, STEPS, Small

HOSTILE = [text for text in TEXTS if text.strip() and len(text) < 1000]
HOSTILE += ["a\rb", "x\nerror: forged", "\x9b31m", "\udcff.png"]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_text_steers_the_terminal_or_forges_a_line(text, tried) -> None:
    with redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")) as out, redirect_stderr(
        io.TextIOWrapper(io.BytesIO(), "utf-8")
    ) as err:
        screen = Screen()
        with screen:
            screen.note(f"reading {text}")
            screen.progress(1, 1, text, {text: 1.0})
        screen.result({}, [(text, text), ("out", text)])
        screen.table({}, [text], [[text], [text]])
        screen.text({}, text.replace("\n", " "))
        screen.warn(text)
        screen.fail(SceditError(text, text))
        for stream in (out, err):
            stream.seek(0)
        lines = (out.read() + err.read()).split("\n")
    assert len(lines) > 8 and all(line.isprintable() for line in lines)
    assert not [line for line in lines if line.startswith("error: forged")]
    tried("texts that would steer the screen")


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_markdown_shows_texts_letter_by_letter(text) -> None:
    for shown in (plain(text), span(text)):
        assert "\n" not in shown
    assert not re.search(r"(?<!\\)[\[\]|`*]|<", plain(text)) and span(text).count("`") == 2
    fence = block(text, "toml").partition("toml\n")[0]
    assert block(text, "toml") == f"{fence}toml\n{text}\n{fence}" and fence not in text


def test_the_card_holds_no_markup_of_others(tmp_path) -> None:
    name = f"{HTML}{MARKDOWN}`x`"
    recipe = Recipe.from_dict({"tuner": {"kind": "sc"}, "samples": {"prompts": [f"```\n{HTML}"]}})
    recipe._name = name
    base = SimpleNamespace(name=name, family="sd15", fingerprint="0" * 32)
    by_recipe.write_card(RunFolder(tmp_path), recipe, base, {name: name, "loss": "0.1"}, None)
    card = (tmp_path / "README.md").read_text("utf-8").partition("\n---\n")[2]
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$|`[^`\n]*`", "", card, flags=re.DOTALL | re.MULTILINE)
    assert "<" not in outside and not re.search(r"(?<!\\)\]\(http://evil", outside) and "\n# owned" not in outside
    assert outside.count("\n# ") + outside.startswith("# ") == 1


def test_the_page_shows_texts_of_others_as_text(tmp_path) -> None:
    """Names of bases and tuners, and what its handler raises: Markdown and errors are shown as HTML there."""
    gr = pytest.importorskip("gradio", reason="the extra 'ui' is not installed")
    from scedit_cli.generation import web_ui
    from scedit_cli.generation.config import GenerationConfig

    def draw(*_: object) -> None:
        raise SceditError(f"{HTML} is no prompt", HTML)

    base = SimpleNamespace(name=HTML, defaults=SimpleNamespace(steps=2, guidance=1.0))
    slots = [web_ui.Slot(f"{HTML}{MARKDOWN}.safetensors", HTML, "canny", False)]
    blocks = web_ui.page(GenerationConfig(), base, slots, tmp_path, draw)
    shown = [each.value for each in blocks.blocks.values() if isinstance(each, gr.Markdown | gr.HTML)]
    assert len(shown) >= 2 and not [text for text in shown if "<" in text or re.search(r"(?<!\\)\]\(http", text)]
    [generate] = [each.fn for each in blocks.fns.values() if each.fn and each.fn.__name__ == "generate"]
    with pytest.raises(gr.Error) as raised:
        generate("a", "", [], 0, 2, 1.0, *[None, False, 1.0, 0.0, 1.0])
    assert "is no prompt" in raised.value.message and "<" not in raised.value.message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"condition": ESCAPES}, "condition is"), ({"base": "x" * 2000}, "base is"), ({"base": "a\nb"}, "base is"),
        ({"prediction_type": "score"}, "prediction_type is"), ({"up_blocks": "[1, -1]"}, "up_blocks"),
        ({"sizes": NESTED}, "nested"), ({"sizes": json.dumps({"channels": [8] * 100_000})}, "skips of"),
        ({"sizes": json.dumps({"channels": [10**400], "hidden": [1]})}, "incomplete"), ({"kind": "lora"}, "incomplete"),
    ],
)  # fmt: skip
def test_metadata_that_is_none(changes, reason, tmp_path) -> None:
    tuner = CSCTuner((8, 8), (8, 8), condition="canny", hint_channels=8)
    file = save_tuner(tuner, tmp_path / "t.safetensors", {"base": "scenes"})
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] |= changes
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    with pytest.raises(SceditError, match=reason):
        load_tuner(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_numbers(value, tmp_path) -> None:
    tuner = CSCTuner((8, 8), (8, 8), condition="canny", hint_channels=8)
    with torch.no_grad():
        tuner.maps[1].down.weight[3, 0] = value
    save_tuner(tuner, tmp_path / "t.safetensors")
    with pytest.raises(SceditError, match=r"maps.1.down.weight holds values that are not numbers \(NaN or Inf\)"):
        load_tuner(tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("manifest.json", NESTED), ("manifest.json", '{"format": "scedit-checkpoint/1", "sha256": {"../../x": ""}}'),
        ("manifest.json", "[]"), ("manifest.json", '{"format": 3}'), ("state.json", NESTED), ("state.json", "{}"),
        ("state.json", '{"step": 7}'), ("state.json", "null"), ("state.json", '{"step": "2"}'),
    ],
)  # fmt: skip
def test_checkpoints_of_others_are_passed_over(file, text, tmp_path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, Checkpoint(step, {"tuner": {"a": torch.zeros(2)}}, {}))
    forge(tmp_path / "step-000002", file, text)
    found, torn = newest_checkpoint(tmp_path)
    assert found.step == 1 and len(torn) == 1 and "step-000002" in torn[0]


def test_a_run_goes_on_from_a_checkpoint_that_has_all_it_needs(small: Small, tmp_path) -> None:
    """The newest has right sums, and nothing more than its step."""
    out = tmp_path / "run"
    shutil.copytree(small.finished, out)
    forge(out / "checkpoints" / f"step-{STEPS:06d}", "state.json", f'{{"step": {STEPS}}}')
    ended = run(small.program(*small.training(out, "--resume")))
    assert ended.code == 0 and f"step-{STEPS:06d} is torn (it has no base_fingerprint, " in ended.err, ended
    assert f"at step {STEPS - EVERY}" in ended.err
    assert_same_end(small.finished, out)


def forge(path: Path, file: str, text: str) -> None:
    """Writes a checkpoint's file again. The sums agree, unless it is they that are written."""
    (path / file).write_text(text)
    if file == "state.json":
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["sha256"][file] = hashlib.sha256(text.encode()).hexdigest()
        (path / "manifest.json").write_text(json.dumps(manifest))


def test_a_file_name_with_newlines_is_told_on_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "a\nhint: rm -rf ~\n\x1b[31m.safetensors"
    Path(name).write_bytes(b"")
    with redirect_stderr(io.StringIO()) as err, pytest.raises(SystemExit) as ended:
        get_command(app).main(["merge", name, "--out", "b.safetensors"])
    lines = err.getvalue().splitlines()
    assert ended.value.code == 2 and sum(line.startswith(("error:", "hint:")) for line in lines) == 2
    assert all(line.isprintable() for line in lines)
