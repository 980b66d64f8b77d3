from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from scedit_cli import save_tuner, scenes
from scedit_cli.core.attach import attached
from scedit_cli.core.tuners import CSCTuner
from scedit_cli.jobs import generate as job
from scedit_cli.models import loading
from scedit_cli.models.base import load_base
from scedit_cli.utils.errors import SceditError
from tests import tiny
from tests.jobs.drawn import draw, near, settings
from tests.recorder import Note, Progress, Recorder


def test_pictures_for_every_prompt_and_seed(generate, tmp_path):
    events = []
    result = generate(prompts=["a red cube", "a cone"], num=2, seed=5, reporter=Recorder(events.append))
    document = result.document()
    assert [(image["prompt"], image["seed"]) for image in document["images"]] == [
        ("a red cube", 5),
        ("a red cube", 6),
        ("a cone", 5),
        ("a cone", 6),
    ]
    paths = [image["path"] for image in document["images"]]
    assert paths == [str(tmp_path / "out" / f"{n:04d}.png") for n in (1, 2, 3, 4)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"0001.png", "0002.png", "0003.png", "0004.png"}
    assert all(image["scores"] == {} for image in document["images"]) and document["grid"] is None
    assert json.loads(json.dumps(document)) == document
    assert not near(paths[0], paths[1]) and not near(paths[0], paths[2])
    assert events and all(isinstance(event, Progress) for event in events) and events[-1].step == events[-1].total
    assert [row[0] for row in result.summary()] == paths


def test_a_picture_says_how_it_was_made(generate, files, base, tmp_path):
    generate(
        prompts=["a cube"], negative="fog", conds=["{}/canny.png:0.5:0-0.5"], tuners=["{}/canny.safetensors:2"],
        seed=3, steps=4, guidance=4.0, scheduler="EulerDiscreteScheduler", out=tmp_path / "cube.png",
    )  # fmt: skip
    expected = {
        "base": base.name, "revision": None, "base_fingerprint": base.fingerprint, "dtype": "fp32",
        "prompt": "a cube", "negative": "fog", "seed": 3, "steps": 4, "guidance": 4.0,
        "scheduler": "EulerDiscreteScheduler", "width": 64, "height": 64,
        "conds": [f"canny={files}/canny.png:0.5:0.0-0.5"], "tuners": [f"{files}/canny.safetensors:2.0"],
    }  # fmt: skip
    made_with = settings(tmp_path / "cube.png")
    assert {key: made_with[key] for key in expected} == expected


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tiff"])
def test_other_formats_say_it_too(generate, tmp_path, suffix):
    generate(out=tmp_path / f"x.{suffix}")
    assert json.loads(Image.open(tmp_path / f"x.{suffix}").getexif()[0x010E])["seed"] == 0


def test_conditions_and_tuners_change_the_picture_by_their_scale(generate, tmp_path):
    def picture(name: str, *conds: str, tuners=("{}/canny.safetensors",)):
        generate(conds=conds, tuners=tuners, out=tmp_path / f"{name}.png", steps=4)
        return tmp_path / f"{name}.png"

    plain, full = picture("plain", tuners=()), picture("full", "{}/canny.png")
    assert not near(plain, full)
    assert near(plain, picture("none", "{}/canny.png:0"))
    assert near(full, picture("one", "canny={}/canny.png:2", tuners=["{}/canny.safetensors:0.5"]))
    first_half = picture("half", "{}/canny.png:1:0-0.5")
    assert not near(first_half, full) and not near(first_half, plain)
    assert not near(full, picture("other hint", "canny={}/color.png"))


def test_a_bundle_keeps_its_scales(generate, tmp_path):
    options = {"conds": ["{}/canny.png"], "steps": 3}
    generate(**options, tuners=["{}/both.safetensors:2"], out=tmp_path / "bundle.png")
    generate(**options, tuners=["{}/canny.safetensors", "{}/style.safetensors:0.5"], out=tmp_path / "apart.png")
    assert near(tmp_path / "bundle.png", tmp_path / "apart.png")


def test_the_base_is_left_without_tuners(generate, monkeypatch):
    loaded = load_base(tiny.pipeline_folder("sd15"))
    monkeypatch.setattr(job, "load_base", lambda *args, **options: loaded)
    generate(conds=["{}/canny.png"], tuners=["{}/canny.safetensors"])
    assert attached(loaded.unet) is None


def test_a_photo_is_annotated_first(generate, tmp_path):
    options = {"tuners": ["{}/canny.safetensors"], "score": True}
    photo = generate(**options, conds_from=["canny={}/photo.png"], out=tmp_path / "photo.png")
    edges = generate(**options, conds=["{}/canny.png"], out=tmp_path / "edges.png")
    assert near(tmp_path / "photo.png", tmp_path / "edges.png")
    assert photo.images[0].scores == edges.images[0].scores
    generate(tuners=options["tuners"], conds_from=["canny={}/photo.png"], width=128, height=64, out=tmp_path / "w.png")
    assert Image.open(tmp_path / "w.png").size == (128, 64)


def test_scores_are_of_each_picture_and_condition(generate):
    result = generate(
        conds=["{}/canny.png", "{}/color.png"],
        tuners=["{}/canny.safetensors", "{}/color.safetensors"],
        score=True,
        num=2,
    )
    scores = [image["scores"] for image in result.document()["images"]]
    assert [set(each) for each in scores] == [{"canny", "color"}] * 2
    measures = [image["measures"] for image in result.document()["images"]]
    assert [each["canny"]["f1"] for each in measures] == [each["canny"] for each in scores]
    assert all(1 - each["color"]["delta_e"] / 100 == pytest.approx(s["color"]) for each, s in zip(measures, scores))
    assert all(0 <= value <= 1 for each in scores for value in each.values()) and scores[0] != scores[1]
    assert "color 0." in result.summary()[0][1]


def test_shipped_tuners_where_none_is_named(base, files, monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "_EMBEDDED_FOLDER", tiny.pipeline_folder("sd15"))
    monkeypatch.setattr(scenes, "shipped_tuner", lambda kind: files / f"{kind}.safetensors")
    options = {"base": "scenes", "steps": 2, "conds": [f"{files}/canny.png"]}
    alone = draw(**options, out=tmp_path / "alone.png")
    draw(**options, tuners=[f"{files}/canny.safetensors"], out=tmp_path / "named.png")
    draw(**options, tuners=["style:4"], out=tmp_path / "styled.png")
    assert alone.document()["base"] == "scenes"
    (tmp_path / "scenes").mkdir()  # such as `prepare --scenes 8 --out scenes` leaves
    monkeypatch.chdir(tmp_path)
    draw(**options, out=tmp_path / "beside.png")
    draw(from_file=tmp_path / "beside.png", out=tmp_path / "again.png")
    assert near(tmp_path / "beside.png", tmp_path / "again.png")
    assert near(tmp_path / "alone.png", tmp_path / "named.png")
    assert not near(tmp_path / "alone.png", tmp_path / "styled.png")
    made_with = [f"{files}/style.safetensors:4.0", f"{files}/canny.safetensors:1.0"]
    assert settings(tmp_path / "styled.png")["tuners"] == made_with


def test_a_foreign_tuner_takes_the_condition_that_is_left(base, generate, tmp_path):
    foreign = tiny.trained(CSCTuner.for_unet(base.unet, condition="hint", hint_channels=16), 1, 0.5)
    file = save_tuner(foreign, tmp_path / "theirs.bin", format="scepter")
    made = [generate(conds=["{}/canny.png"], tuners=[f"{file}:{scale}"]) for scale in (0, 1)]
    assert [list(each.conditions) for each in made] == [["canny"], ["canny"]]
    without, drawn = (np.asarray(Image.open(each.images[0].path)) for each in made)
    assert (without != drawn).any()


def test_nothing_is_ever_overwritten(generate, tmp_path):
    generate(grid=True)
    first = (tmp_path / "out" / "0001.png").read_bytes()
    again = generate(seed=1, num=2)
    assert [image.path.name for image in again.images] == ["0002.png", "0003.png"]
    (tmp_path / "out" / "0041-grid.png").touch()
    assert generate(seed=2).images[0].path.name == "0042.png"
    assert (tmp_path / "out" / "0001.png").read_bytes() == first

    file = tmp_path / "a.png"
    result = generate(out=file, num=2, grid=True)
    assert [image.path.name for image in result.images] == ["a.png", "a-2.png"]
    assert result.grid == tmp_path / "a-grid.png"
    before = file.read_bytes()
    with pytest.raises(SceditError, match="a.png exists already"):
        generate(out=file, seed=9)
    assert file.read_bytes() == before
    generate(out=file, seed=9, overwrite=True)
    assert file.read_bytes() != before


def test_a_grid_shows_conditions_and_pictures(generate):
    result = generate(
        prompts=["a red cube", "a cone"], num=2, grid=True, conds=["{}/canny.png"], tuners=["{}/canny.safetensors"]
    )
    assert result.document()["grid"] == str(result.grid) and result.grid.name == "0001-grid.png"
    sheet = Image.open(result.grid)
    rows, columns = 2, 3
    assert sheet.height >= rows * 256 and sheet.width >= columns * 256 + 150
    last = Image.open(result.images[-1].path).resize((256, 256), Image.Resampling.LANCZOS)
    place = (sheet.width - 264, sheet.height - 264, sheet.width - 8, sheet.height - 8)
    assert np.array_equal(np.asarray(sheet.crop(place)), np.asarray(last))


def test_a_prompt_that_is_cut_is_told(generate):
    events = []
    generate(prompts=["x " * 100], reporter=Recorder(events.append))
    assert [event.text[:27] for event in events if isinstance(event, Note)] == ["this prompt is longer than "]


def test_other_programs_syntax_is_told_once_and_drawn_as_it_stands(generate):
    events = []
    result = generate(prompts=["a (red:1.3) cube"], negative="(blue:1.2)", num=2, reporter=Recorder(events.append))
    assert [event.text[:11] for event in events if isinstance(event, Note)] == ["'(red:1.3)'"]
    assert [image.prompt for image in result.images] == ["a (red:1.3) cube"] * 2


BAD = {
    "missing file": ({"conds": ["canny=gone.png"]}, "--cond: gone.png does not exist"),
    "no image": ({"conds": ["{}/notes-canny.png"]}, "notes-canny.png is no readable image"),
    "torn picture": ({"conds": ["{}/torn-canny.png"]}, "torn-canny.png is no readable image"),
    "no kind": ({"conds": ["{}/photo.png"]}, "photo.png: neither its name nor its folder's"),
    "bad scale": ({"conds": ["{}/canny.png:much"]}, "the scale 'much' is no number"),
    "bad span": ({"conds": ["{}/canny.png:1:0.5-2"]}, "no part of the steps"),
    "no tuner": ({"conds": ["{}/color.png"], "tuners": ["{}/style.safetensors"]}, "no tuner takes color conditions"),
    "no shipped tuner": ({"conds": ["mine={}/photo.png"], "base": None}, "no tuner takes mine conditions"),
    "no condition": ({"tuners": ["{}/canny.safetensors"]}, "canny.safetensors takes a canny condition, and none"),
    "two of a kind": (
        {"conds": ["{}/canny.png", "canny={}/color.png"], "tuners": ["{}/canny.safetensors"]},
        "are both canny conditions",
    ),
    "two tuners": (
        {"conds": ["{}/canny.png"], "tuners": ["{}/canny.safetensors", "{}/both.safetensors"]},
        "both take canny conditions",
    ),
    "missing tuner": ({"tuners": ["gone.safetensors"]}, "gone.safetensors: no such tuner file"),
    "tuner is no tuner": ({"tuners": ["{}/photo.png"]}, "photo.png"),
    "unknown shipped tuner": ({"tuners": ["stile"]}, "stile"),
    "photo without kind": ({"conds_from": ["{}/photo.png"]}, "--cond-from .*photo.png: the kind of condition"),
    "photo of unknown kind": ({"conds_from": ["cany={}/photo.png"]}, "nothing makes cany conditions"),
    "missing photo": ({"conds_from": ["canny=gone.png"]}, "--cond-from: gone.png does not exist"),
    "score of nothing": ({"score": True}, "--score compares images with conditions"),
    "score of unknown": ({"conds": ["mine={}/photo.png"], "score": True}, "cannot be scored against mine"),
    "no images": ({"num": 0}, "--num is 0"),
    "no steps": ({"steps": 0}, "--steps is 0"),
    "no number": ({"guidance": float("nan")}, "--guidance is nan"),
    "negative seed": ({"seed": -1}, "--seed is -1"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_told_before_anything_is_loaded(generate, tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(job, "load_base", lambda *args, **options: pytest.fail("the base was loaded"))
    with pytest.raises(SceditError, match=message) as error:
        generate(**options)
    assert error.value.exit_code == 2 and error.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 96}, "--height is 96; the sides of base .* multiples of 64"),
        ({"height": 96, "conds": ["{}/canny.png"], "tuners": ["{}/canny.safetensors"]}, "--height is 96; the sides of"),
        ({"scheduler": "Oiler"}, "scheduler 'Oiler': not known"),
        ({"conds": ["{}/canny.png"], "tuners": ["{}/sibling.safetensors"]}, "sibling.* when that had other weights"),
        ({"base": "sdxl", "tuners": ["{}/style.safetensors"]}, "style.safetensors is a tuner for the base .*channels"),
    ],
)
def test_what_does_not_fit_the_base_is_told(generate, tmp_path, options, message):
    if "base" in options:
        options = options | {"base": str(tiny.pipeline_folder(options["base"]))}
    with pytest.raises(SceditError, match=message) as error:
        generate(**options)
    assert error.value.exit_code == 2 and error.value.hint
    assert not (tmp_path / "out").exists()


def test_out_is_no_file_of_another_kind(generate, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SceditError, match="notes.txt is a file that is no image"):
        generate(out=tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
