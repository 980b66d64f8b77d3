"""What a picture remembers of its base, its tuners and its files; with others in their place it is made again too."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from scedit_cli import scenes
from scedit_cli.core.bundle import Bundle
from scedit_cli.core.tuners import CSCTuner, SCTuner
from scedit_cli.core.weights import save_tuner
from scedit_cli.generation.provenance import encoded, settings_to_remake
from scedit_cli.generation.web_ui import slots_for
from scedit_cli.jobs import generate as job
from scedit_cli.models import loading
from scedit_cli.models.base import load_base
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import sha256
from scedit_cli.utils.specs import TunerSpec
from tests import tiny
from tests.jobs.drawn import draw, near, same, settings
from tests.recorder import Note, Recorder

COMMIT = "0a1b2c"


@pytest.fixture
def hub(files, tmp_path, monkeypatch):
    """Plays the hub's tuner owner/warm: its folder of COMMIT; and the list of what was asked for."""
    folder, asked = tmp_path / "snapshots" / COMMIT, []
    folder.mkdir(parents=True)
    shutil.copy(files / "style.safetensors", folder / "tuner.safetensors")

    def snapshot(repository, revision, allow_patterns):
        asked.append((repository, revision))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return folder, asked


@pytest.fixture
def loads(base, monkeypatch):
    """What `load_base` was asked for, each time."""
    asked = []
    monkeypatch.setattr(job, "load_base", lambda model, **options: asked.append((model, options)) or base)
    return asked


def test_another_file_may_stand_in_the_place_of_one_that_is_gone(generate, files, tmp_path):
    names = ("canny.png", "canny.safetensors", "photo.png")
    mine = {name: shutil.copy(files / name, tmp_path / name) for name in names}
    options = {"conds": [f"{mine['canny.png']}:0.5:0-0.9"], "tuners": [str(mine["canny.safetensors"])]}
    made = generate(**options, image=mine["photo.png"]).images[0].path
    for name, others in {
        "canny.png": {"conds": ["canny={}/color.png"]},
        "canny.safetensors": {"tuners": ["{}/canny.safetensors"]},
        "photo.png": {"image": "{}/canny.png"},
    }.items():
        mine[name].rename(tmp_path / "away")
        with pytest.raises(SceditError, match=f"--from {made}: {mine[name]} is gone"):
            generate(from_file=made, steps=None)
        drawn = generate(from_file=made, steps=None, **others).images[0].path
        assert same(drawn, made) == (name == "canny.safetensors")
        shutil.copy(files / "wide-canny.png", mine[name])
        with pytest.raises(SceditError, match=f"{mine[name]} is not the file that it was made with"):
            generate(from_file=made, steps=None)
        assert same(generate(from_file=made, steps=None, **others).images[0].path, drawn)
        (tmp_path / "away").rename(mine[name])
    assert same(generate(from_file=made, steps=None).images[0].path, made)


def test_images_that_name_no_guidance_of_conditions_had_none(generate, tmp_path):
    conds, tuners = ["{}/canny.png"], ["{}/canny.safetensors"]
    [made] = generate(conds=conds, tuners=tuners, guidance=4.0, control_guidance=3.0).images
    assert settings_to_remake(made.path)[0]["control_guidance"] == settings(made.path)["control_guidance"] == 3
    assert same(generate(from_file=made.path, steps=None).images[0].path, made.path)
    older = {name: value for name, value in settings(made.path).items() if name != "control_guidance"}
    (tmp_path / "older.png").write_bytes(encoded(Image.open(made.path), ".png", older))
    assert not same(generate(from_file=tmp_path / "older.png", steps=None).images[0].path, made.path)


@pytest.fixture
def two_foreign(base, tmp_path):
    """Another program's file of a canny and a color tuner, which does not say so."""
    tuners = [CSCTuner.for_unet(base.unet, kind, hint_channels=16) for kind in ("canny", "color")]
    bundle = Bundle([tiny.trained(tuner, seed, 0.5) for seed, tuner in enumerate(tuners)])
    return save_tuner(bundle, tmp_path / "theirs.bin", format="scepter")


def test_another_programs_tuners_keep_the_conditions_that_they_had(generate, files, two_foreign, tmp_path):
    shown = {kind: str(files / f"{kind}.png") for kind in ("canny", "color")}
    rows = [{"prompt": f"a {kind}", "seed": 1, "conditions": {kind: file}} for kind, file in shown.items()]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = generate(prompts=None, seed=None, prompts_file=tmp_path / "prompts.jsonl", tuners=[str(two_foreign)]).images
    for each in made:
        assert settings(each.path)["tuners"] == [f"canny,color={two_foreign}:1.0"]
        assert same(generate(from_file=each.path, steps=None).images[0].path, each.path)


def test_named_conditions_do_not_depend_on_the_order_of_the_controls(generate, files, two_foreign):
    conds = [f"{kind}={files}/{kind}.png" for kind in ("canny", "color")]
    one, turned, swapped = (
        generate(conds=given, tuners=[f"{names}={two_foreign}"]).images[0].path
        for given, names in ((conds, "canny,color"), (conds[::-1], "canny,color"), (conds, "color,canny"))
    )
    assert same(one, turned) and not same(one, swapped)


def test_images_of_several_conditions_in_one_batch_are_made_again_bit_for_bit(generate, files, tmp_path):
    names = ("canny.png", "color.png", "photo.png")
    rows = [{"prompt": "a", "seed": 1, "conditions": {"canny": str(files / name)}} for name in names]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = {"prompts": None, "seed": None, "prompts_file": tmp_path / "prompts.jsonl"}
    made = generate(**given, tuners=["{}/canny.safetensors"]).images
    assert [settings(each.path)["batch"] for each in made] == [[at, 3] for at in range(3)]
    for each in made:
        assert same(generate(from_file=each.path, steps=None).images[0].path, each.path)


def test_a_shipped_tuner_is_kept_by_its_name(files, tmp_path, monkeypatch):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        shutil.copy(files / "canny.safetensors", tmp_path / place)
    monkeypatch.setattr(loading, "_EMBEDDED_FOLDER", tiny.pipeline_folder("sd15"))
    monkeypatch.setattr(scenes, "TUNERS", tmp_path / "here")
    draw(steps=2, conds=[f"{files}/canny.png:0.7"], out=tmp_path / "made.png")
    kept = settings(tmp_path / "made.png")
    assert kept["tuners"] == ["canny:1.0"] and kept["files"]["canny"] == sha256(files / "canny.safetensors")
    monkeypatch.setattr(scenes, "TUNERS", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "canny").mkdir()  # is not taken for the shipped one
    draw(from_file=tmp_path / "made.png", out=tmp_path / "again.png")
    assert same(tmp_path / "made.png", tmp_path / "again.png") and settings(tmp_path / "again.png") == kept
    shutil.copy(files / "sibling.safetensors", tmp_path / "there" / "canny.safetensors")
    with pytest.raises(SceditError, match="canny is not the file that it was made with"):
        draw(from_file=tmp_path / "made.png", out=tmp_path / "never.png")


def test_a_tuner_of_the_hub_is_kept_with_its_commit(generate, hub, files):
    folder, asked = hub
    made = generate(tuners=["owner/warm@v2:0.5"], scales=["warm=0.7"]).images[0].path
    kept = settings(made)
    assert kept["tuners"] == [f"owner/warm@{COMMIT}:0.5"] and asked == [("owner/warm", "v2")]
    assert kept["files"] == {f"owner/warm@{COMMIT}": sha256(files / "style.safetensors")}
    again = generate(from_file=made, steps=None).images[0].path
    assert same(again, made) and settings(again) == kept and set(asked[1:]) == {("owner/warm", COMMIT)}
    assert near(made, generate(tuners=["{}/style.safetensors:0.7"]).images[0].path)
    shutil.copy(files / "sibling.safetensors", folder / "tuner.safetensors")
    with pytest.raises(SceditError, match=f"owner/warm@{COMMIT} is not the file"):
        generate(from_file=made, steps=None)


def test_a_folders_tuner_is_kept_by_its_content(generate, files, tmp_path):
    (tmp_path / "warm").mkdir()
    shutil.copy(files / "style.safetensors", tmp_path / "warm" / "any.safetensors")
    made = generate(tuners=[f"{tmp_path}/warm"], scales=["warm=0.7"]).images[0].path
    assert same(generate(from_file=made, steps=None).images[0].path, made)
    shutil.copy(files / "canny.safetensors", tmp_path / "warm" / "any.safetensors")
    with pytest.raises(SceditError, match="warm is not the file that it was made with"):
        generate(from_file=made, steps=None)


def test_a_base_of_the_hub_is_kept_with_its_commit(generate, loads, base, monkeypatch):
    pinned = replace(base, name="owner/model", revision=COMMIT, vae_name="owner/vae", vae_revision="3d4e")
    monkeypatch.setattr(job, "load_base", lambda model, **options: loads.append((model, options)) or pinned)
    made = generate(base="owner/model@v2", vae="owner/vae@v3").images[0].path
    generate(from_file=made, steps=None)
    assert [(model, options["vae"]) for model, options in loads] == [
        ("owner/model@v2", "owner/vae@v3"), (f"owner/model@{COMMIT}", "owner/vae@3d4e")
    ]  # fmt: skip
    generate(from_file=made, steps=None, base="owner/model@v3")
    assert loads[-1][0] == "owner/model@v3"


def test_a_base_of_the_hub_is_loaded_as_the_tuner_had_it(generate, loads, base, tmp_path):
    about = {"base": "owner/model", "base_revision": COMMIT, "base_fingerprint": base.fingerprint}
    save_tuner(SCTuner.for_unet(base.unet), tmp_path / "pinned.safetensors", about)
    for name in ("owner/model", "owner/model@main"):
        generate(base=name, tuners=[f"{tmp_path}/pinned.safetensors"])
    assert [model for model, _ in loads] == [f"owner/model@{COMMIT}", "owner/model@main"]


def test_tuners_of_other_weights_act_where_that_is_asked_for(generate, files, tmp_path):
    events = []
    options = {"conds": ["{}/canny.png"], "tuners": ["{}/sibling.safetensors"]}
    with pytest.raises(SceditError, match="when that had other weights") as error:
        generate(**options)
    assert "--any-base takes it" in error.value.hint
    made = generate(**options, any_base=True, reporter=Recorder(events.append)).images[0].path
    assert [event.text for event in events if isinstance(event, Note)] == [error.value.message]
    fitting = generate(conds=options["conds"], tuners=["{}/canny.safetensors"]).images[0].path
    assert same(made, fitting) and settings(made)["any_base"] and not settings(fitting)["any_base"]
    assert same(generate(from_file=made, steps=None).images[0].path, made)
    with pytest.raises(SceditError, match="whose skips have other channels"):
        generate(base=str(tiny.pipeline_folder("sdxl")), tuners=["{}/style.safetensors"], any_base=True)


def test_what_the_base_predicts_is_told_and_kept(generate):
    options = {"prompts": ["a"], "guidance": 1.0}
    made = generate(**options, prediction="v_prediction").images[0].path
    assert settings(made)["prediction"] == "v_prediction" and not near(made, generate(**options).images[0].path)
    assert same(generate(from_file=made, steps=None).images[0].path, made)


def test_a_base_that_may_predict_either_is_told_unless_a_tuner_tells(generate, base, tmp_path):
    guessed, notes = replace(base, is_guessed=True), []
    for name, about in {"taught": {"prediction_type": "epsilon"}, "untold": {}}.items():
        save_tuner(SCTuner.for_unet(base.unet), tmp_path / f"{name}.safetensors", about)
    for tuners in ([], [f"{tmp_path}/untold.safetensors"], [f"{tmp_path}/taught.safetensors"]):
        events = []
        generate(tuners=tuners, loaded=guessed, reporter=Recorder(events.append))
        notes.append([event.text for event in events if isinstance(event, Note)])
    assert notes == [[f"{base.doubt}: --prediction epsilon takes it for the other"]] * 2 + [[]]


def test_a_base_that_may_be_a_distilled_one_is_told_where_defaults_are_taken(generate, base):
    named, notes = replace(base, names=("sd-turbo",)), []
    for options in ({"steps": None}, {"steps": 2}, {"steps": None, "guidance": 1.0}):
        events = []
        generate(loaded=named, reporter=Recorder(events.append), **options)
        notes.append([event.text for event in events if isinstance(event, Note)])
    told = f'{base.name} has "turbo" in its name, and is sampled as an ordinary base'
    assert notes == [[f"{told}: --steps 4 --guidance 1 takes it for a distilled one"], [], []]


def test_the_page_takes_any_base_as_an_option(base, files):
    with pytest.raises(SceditError, match="when that had other weights"):
        slots_for([TunerSpec(f"{files}/sibling.safetensors")], base)
    assert [slot.name for slot in slots_for([TunerSpec(f"{files}/sibling.safetensors")], base, any_base=True)] == ["canny"]


@pytest.mark.parametrize("scheduler", ["DPM++ SDE", "dpmpp_2m_sde", "Euler a", "DDPM", "LCM", "TCD"])
def test_a_sampler_that_draws_noise_draws_it_again(generate, scheduler):
    """Whatever else the program has drawn from the global generator meanwhile."""
    options = {"prompts": ["a"], "scheduler": scheduler, "steps": 4, "seed": "5,6"}
    torch.manual_seed(0)
    first, second = (image.path for image in generate(**options, out="first").images)
    again = [generate(from_file=each, steps=None, out="again").images[0].path for each in (first, second)]
    assert same(again[0], first) and same(again[1], second)
    assert near(generate(**options | {"seed": 6}, out="alone").images[0].path, second)


@pytest.mark.parametrize("scheduler", [None, "Heun"])  # which calls the U-Net twice a step
def test_reuse_is_recorded_and_acts_alike_with_everything_else(generate, scheduler):
    options = {"prompts": ["a"], "steps": 6, "seed": "5,6", "tuners": ["{}/canny.safetensors", "{}/style.safetensors:0.5"]}
    options |= {"scheduler": scheduler, "guidance_span": "0-0.5", "conds": ["{}/canny.png:0.7:0-0.5"]}
    plain, one, three = (
        [image.path for image in generate(**options, reuse=reuse, out=f"{reuse}").images] for reuse in (None, 1, 3)
    )
    assert same(plain[0], one[0]) and settings(one[0])["reuse"] == 1
    assert not same(plain[0], three[0]) and settings(three[0])["reuse"] == 3
    again = generate(from_file=three[0], steps=None, out="again").images[0].path
    assert same(again, three[0]) and settings(again) == settings(three[0])
    alone = generate(**options | {"seed": 6}, reuse=3, out="alone").images[0].path
    assert near(alone, three[1])  # nothing of the image drawn before is reused


def test_what_a_sampler_cannot_do_is_told_before_anything_is_written(generate, tmp_path):
    for options, message in (
        ({"scheduler": "nosuch"}, "scheduler 'nosuch': not known"),
        ({"scheduler": "LCM", "steps": 60}, "LCM cannot take 60 steps"),
        ({"scheduler": "EDMEuler"}, "EDMEuler is for bases trained on"),
        ({"scheduler": "DPM++ 2M:solver_order=9"}, "solver_order is '9'"),
        ({"reuse": 0}, "--reuse is 0"),
        ({"reuse": 3}, "--reuse is 3, and there are 2 steps"),
        ({"reuse": 2, "compile": True}, "--reuse has no effect on a compiled U-Net"),
        ({"steps": 1001}, "PNDM cannot take 1001 steps"),
        ({"prompts": ["a", "a (cat).swap(dog)"], "weighted": True, "batch_size": 1}, "swap"),
        ({"prompts": ["a"], "negative": "()", "weighted": True}, "no words"),
    ):
        with pytest.raises(SceditError, match=re.escape(message)):
            generate(**options)
    assert not list(tmp_path.rglob("*.png"))


def test_the_prediction_type_of_a_loaded_base_is_kept(tmp_path):
    folder = tiny.pipeline_folder("sd15")
    base = load_base(folder, prediction="v_prediction")
    options = {"base": str(folder), "prompts": ["a cube"], "steps": 2}
    made = draw(**options, loaded=base, out=tmp_path / "made.png").images[0].path
    assert settings(made)["prediction"] == "v_prediction"
    assert same(draw(from_file=made, out=tmp_path / "again.png").images[0].path, made)
    assert not near(draw(**options, out=tmp_path / "epsilon.png").images[0].path, made)
