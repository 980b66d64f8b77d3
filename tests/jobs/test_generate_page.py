"""The page, in a real browser: Debian's chromium."""

from __future__ import annotations

import shlex
import shutil
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from scedit_cli.cli import app
from scedit_cli.cli.generate_request import command_line
from scedit_cli.generation import web_ui
from scedit_cli.generation.config import BaseConfig, GenerationConfig, OutputConfig, Overrides, Prompt
from scedit_cli.inference.config import Control, SamplerConfig
from scedit_cli.inference.controls import OpenedControl
from scedit_cli.jobs import generate as job
from scedit_cli.utils.specs import TunerSpec
from tests import tiny
from tests.recorder import Note, Recorder

SLOTS = [web_ui.Slot("both.safetensors", "canny", "canny", True), web_ui.Slot("both.safetensors", "both", None, True)]


def test_the_pages_elements_become_a_configuration(tmp_path):
    dropped = tmp_path / "drop.png"
    Image.new("L", (8, 8)).save(dropped)
    values = [(str(dropped), True, 0.5, 0.0, 0.5), (None, False, 2.0, 0.0, 1.0)]
    chosen, given = ["both.safetensors"], GenerationConfig(sampler=SamplerConfig(weighted=True), seeds=[3])
    made = web_ui.config_of(given, SLOTS, values, chosen, tmp_path / "out", "a", negative="fog")
    [kept] = (tmp_path / "out" / "inputs").iterdir()
    assert kept.read_bytes() == dropped.read_bytes()
    assert made == replace(
        given, prompts=[Prompt("a")], sampler=SamplerConfig(weighted=True, negative="fog"),
        tuners=[TunerSpec("both.safetensors")], controls=[Control("canny", photo=kept, scale=0.5, end=0.5)],
        overrides=Overrides({"both": 2.0}),
    )  # fmt: skip
    plain = web_ui.config_of(given, SLOTS, [(str(dropped), False, 1.0, 0.0, 1.0), values[1]], chosen, tmp_path)
    assert plain.controls == [Control("canny", tmp_path / "inputs" / kept.name)]
    nothing = web_ui.config_of(given, SLOTS, values, [], tmp_path)
    assert (nothing.tuners, nothing.controls, nothing.overrides) == ([], [], Overrides())
    assert command_line({"weighted": True}, made, Path("my out")).endswith("--scale both=2 --out 'my out'")


def test_scales_of_tuners_that_share_no_file_stand_behind_it(tmp_path):
    slots = [web_ui.Slot(f"{run}/tuner.safetensors", "tuner", None, False) for run in ("a", "b")]
    values = [(None, False, scale, 0.0, 1.0) for scale in (0.5, 1)]
    made = web_ui.config_of(GenerationConfig(), slots, values, [slot.file for slot in slots], tmp_path)
    assert made.tuners == [TunerSpec("a/tuner.safetensors", 0.5), TunerSpec("b/tuner.safetensors")]


def test_a_tuners_own_scale_is_where_its_slider_begins(base, files):
    both, style = f"{files}/both.safetensors", f"{files}/style.safetensors"
    slots = web_ui.slots_for([TunerSpec(both, 0.8), TunerSpec(style)], base)
    assert [(slot.file, slot.name, slot.scale) for slot in slots] == [
        (both, "both", 0.8), (both, "canny", 0.8), (style, "style", 1.0),
    ]  # fmt: skip
    gr = pytest.importorskip("gradio", reason="the extra 'ui' is not installed")
    blocks = web_ui.page(GenerationConfig(), base, [replace(slots[0], scale=5.0), *slots[1:]], Path("out"), lambda *_: None)
    found = {b.elem_id: (b.minimum, b.value, b.maximum) for b in blocks.blocks.values() if isinstance(b, gr.Slider)}
    assert [found[f"scale-{number}"] for number in range(3)] == [(-2, 5.0, 5.0), (-2, 0.8, 3), (-2, 1.0, 3)]


def test_a_dropped_condition_keeps_its_transparency(base, files, tmp_path):
    """The browser's component hands the file on as it is, and it is read as --cond reads it."""
    gr = pytest.importorskip("gradio", reason="the extra 'ui' is not installed")
    lines = np.asarray(Image.open(files / "canny.png"))
    clear = np.dstack((np.full_like(lines, 255), lines))
    Image.fromarray(clear).save(tmp_path / "clear.png")
    slots = web_ui.slots_for([TunerSpec(f"{files}/canny.safetensors")], base)
    blocks = web_ui.page(GenerationConfig(), base, slots, tmp_path, lambda *_: None)
    [drop] = [b for b in blocks.blocks.values() if isinstance(b, gr.Image) and b.elem_id == "file-0"]
    file = drop.preprocess(drop.data_model(path=str(tmp_path / "clear.png"), orig_name="clear.png"))
    values = [(file, False, 1.0, 0.0, 1.0)]
    [control] = web_ui.config_of(GenerationConfig(), slots, values, [slots[0].file], tmp_path).controls
    assert np.array_equal(np.asarray(OpenedControl.of(control).image), np.dstack([lines] * 3))


@pytest.fixture
def browser():
    selenium = pytest.importorskip("selenium", reason="selenium is not installed")
    pytest.importorskip("gradio", reason="the extra 'ui' is not installed")
    driver = shutil.which("chromedriver")
    if not driver or not (chromium := shutil.which("chromium")):
        pytest.skip("no chromium with chromedriver here: apt-get install chromium chromium-driver")
    from selenium import webdriver

    assert selenium
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1100"):
        options.add_argument(argument)
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture
def served(files, tmp_path, monkeypatch):
    """The page's address, served by the job from a thread."""
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    ready, over = threading.Event(), threading.Event()

    def tell(event):
        if isinstance(event, Note):
            told.append(event.text)
            ready.set()

    tuners = [f"{files}/canny.safetensors", f"{files}/style.safetensors"]
    given = {"base": str(tiny.pipeline_folder("sd15")), "steps": 2}
    config = GenerationConfig(
        base=BaseConfig(given["base"]), sampler=SamplerConfig(2), out=OutputConfig(tmp_path / "out"),
        tuners=[TunerSpec(file) for file in tuners],
    )  # fmt: skip
    options = {"reporter": Recorder(tell), "stop": over, "command_of": partial(command_line, given, out=tmp_path / "out")}
    serving = threading.Thread(target=job.serve, args=(config,), kwargs=options)
    serving.start()
    assert ready.wait(120), "the page was not served"
    yield told[0].split(" · ")[0].removeprefix("the page is at ")
    over.set()
    serving.join(30)


def test_the_page_draws_what_its_command_line_draws(served, browser, files, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def wait(find):
        return WebDriverWait(browser, 120, ignored_exceptions=(Exception,)).until(lambda _: find())

    def one(selector: str):
        return browser.find_element(By.CSS_SELECTOR, selector)

    assert served.startswith("http://127.0.0.1:")
    browser.get(served)
    wait(lambda: one("#prompt textarea")).send_keys("a red cube")
    for box in browser.find_elements(By.CSS_SELECTOR, "#tuners input[type=checkbox]"):
        box.click()
    # gradio keeps hidden groups out of the document until their tuner is ticked
    wait(lambda: one("#file-0 input[type=file]")).send_keys(str(files / "canny.png"))
    wait(lambda: one("#file-0 img").get_attribute("src"))
    scale = wait(lambda: one("#scale-0 input[type=number]"))
    browser.execute_script(
        "arguments[0].value = '0.6'; arguments[0].dispatchEvent(new Event('input', {bubbles: true}));"
        "arguments[0].dispatchEvent(new Event('change', {bubbles: true}));",
        scale,
    )
    one("#generate").click()
    wait(lambda: one("#result img").get_attribute("src"))
    command = wait(lambda: one("#command .cm-content").text)
    browser.execute_script("window.scrollTo(0, 0)")
    browser.save_screenshot(str(tmp_path / "page.png"))
    assert len(browser.find_elements(By.CSS_SELECTOR, "#conditions img")) >= 1

    (drawn,) = (tmp_path / "out").glob("*.png")
    words = shlex.split(command)
    assert words[:2] == ["scedit", "generate"] and any(word.endswith(":0.6") for word in words)
    answer = CliRunner().invoke(app, [*words[1:], "--quiet"])
    assert answer.exit_code == 0, answer.output
    (again,) = (tmp_path / "out").glob("0002.png")
    assert np.array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(drawn)))
