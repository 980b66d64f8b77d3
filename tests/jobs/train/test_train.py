from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

from scedit_cli.cli.train import settings
from scedit_cli.core.attach import attach
from scedit_cli.core.weights import load_tuner
from scedit_cli.data.sampler import StatefulSampler
from scedit_cli.data.scenes import write_scenes
from scedit_cli.jobs import train as job
from scedit_cli.models.base import Defaults, load_base
from scedit_cli.recipe import Recipe, load_recipe
from scedit_cli.training import builders, objective, trainer
from scedit_cli.training.memory import Forecast
from scedit_cli.utils.errors import SceditError, WorkFailed
from tests import tiny
from tests.jobs.train.conftest import BATCH, PICTURES, files_in, log_of
from tests.recorder import Note, Progress, Recorder


def test_a_run_writes_exactly_these_files(finished):
    _, folder, _, _ = finished
    parts = ("tuner.safetensors", "optimizer.safetensors", "average.safetensors", "state.json", "manifest.json")
    checkpoints = {f"checkpoints/step-00000{step}/{part}" for step in (2, 4) for part in parts}
    samples = {"samples/step-000003.png", "samples/step-000004.png"}
    files = {"tuner.safetensors", "recipe.toml", "log.jsonl", "loss.png", "README.md", "samples/scores.jsonl"}
    assert files_in(folder) == files | checkpoints | samples


def test_conditions_are_made_while_training(recipe, tmp_path):
    folder = tmp_path / "plain"
    write_scenes(folder, PICTURES, size=64, kinds=())
    losses = {}
    for name, changes in {
        "read": {},
        "made": {"make": ["canny"], "path": str(folder)},
        "drawn": {"make": ["canny"], "path": str(folder), "params": ["low=10..20", "high=30"]},
    }.items():
        job.train(recipe(data=changes, train={"steps": 2}), out=tmp_path / name)
        losses[name] = [line["loss"] for line in log_of(tmp_path / name)]
    assert losses["read"] == losses["made"] != losses["drawn"]


def test_what_is_made_while_training_may_have_an_alpha(recipe, tmp_path):
    wanted = recipe(
        tuner={"condition": "inpaint"}, data={"make": ["inpaint"]}, train={"steps": 1},
        samples={"every": 1, "count": 1, "steps": 1},
    )  # fmt: skip
    job.train(wanted, out=tmp_path / "run")
    assert load_tuner(tmp_path / "run").in_channels == 4


def test_only_quick_conditions_are_made_while_training(recipe, tmp_path):
    for make, sentence in ((["hed"], "hed needs a network for every image"), (["thermal"], "'thermal'")):
        with pytest.raises(SceditError, match=sentence):
            job.train(recipe(tuner={"condition": make[0]}, data={"make": make}), out=tmp_path / "run")
    with pytest.raises(SceditError, match="data.params: blur=1: expected KIND.NAME=VALUE|no parameter"):
        job.train(recipe(data={"make": ["canny"], "params": ["blur=1"]}), out=tmp_path / "run")
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_the_log_has_a_line_per_step(finished):
    _, folder, _, _ = finished
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all({"step", "loss", "learning_rate", "seconds"} <= line.keys() for line in lines)
    seconds = [0.0, *(line["seconds"] for line in lines)]
    assert seconds == sorted(set(seconds))


def test_the_result_tells_what_was_promised(finished):
    result, folder, _, events = finished
    document = result.document()
    assert document["run"] == str(folder) and document["tuner"] == str(folder / "tuner.safetensors")
    assert document["steps"] == 4 and document["control_score"] is None
    assert document["loss"] == pytest.approx(sum(line["loss"] for line in log_of(folder)) / 4)
    assert 0 < document["seconds"] and 0 < document["images_per_second"]
    tuner = load_tuner(folder)
    assert document["trainable_parameters"] == sum(each.numel() for each in tuner.parameters())
    assert dict(result.summary())["run"] == str(folder)
    steps = [event for event in events if isinstance(event, Progress) and event.stage == "training"]
    assert [event.step for event in steps] == [1, 2, 3, 4]
    assert steps[-1].values["loss"] == log_of(folder)[-1]["loss"]


def test_the_tuner_is_the_average_and_fits_its_base(finished):
    _, folder, wanted, _ = finished
    base, tuner = load_base(wanted.base.model), load_tuner(folder / "tuner.safetensors")
    average = load_file(folder / "checkpoints" / "step-000004" / "average.safetensors")
    assert all(torch.equal(value, average[name]) for name, value in tuner.state_dict().items())
    assert tuner.metadata["base_fingerprint"] == base.fingerprint and tuner.metadata["steps"] == "4"
    assert tuner.metadata["prediction_type"] == "v_prediction"
    with attach(base.unet, tuner) as edits:
        edits.set_hints({"canny": torch.rand(1, 3, 64, 64)})


def test_the_recipe_in_the_folder_is_the_one_that_ran(finished):
    _, folder, wanted, _ = finished
    assert load_recipe(folder / "recipe.toml").model_dump() == wanted.model_dump()
    assert load_tuner(folder).metadata["recipe"] == (folder / "recipe.toml").read_text()


def test_a_loss_that_is_no_number_names_its_pictures(recipe, tmp_path, monkeypatch):
    original, calls = objective.noise_prediction_loss, []

    def loss(*args):
        calls.append(1)
        return original(*args) * torch.tensor([1, float("nan") if len(calls) == 2 else 1, 1, 1])

    monkeypatch.setattr(objective, "noise_prediction_loss", loss)
    with pytest.raises(WorkFailed) as failed:
        job.train(recipe(train={"checkpoint_every": 1}), out=tmp_path / "run")
    picture = StatefulSampler(PICTURES, BATCH, 0).batch(1)[1]
    names = {f"{index:06d}.png" for index in range(PICTURES)}
    assert {name for name in names if name in failed.value.message} == {f"{picture:06d}.png"}
    assert "step 2" in failed.value.message and "from step 1 by `resume`" in failed.value.hint
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]


def test_edges_in_black_on_white_are_told_before_training(recipe, dataset, tmp_path):
    inverted, events = tmp_path / "data", []
    shutil.copytree(dataset, inverted)
    for path in (inverted / "conditions/canny").iterdir():
        ImageOps.invert(Image.open(path).convert("L")).save(path)
    for folder in (dataset, inverted):
        job.train(recipe(data={"path": str(folder)}), dry_run=True, reporter=Recorder(events.append))
    told = [event.text for event in events if isinstance(event, Note) and "drawn on black" in event.text]
    name, why = "canny image 000000.png", "is mostly light, and canny images are drawn on black"
    assert told == [f"{name} {why} ({PICTURES} of the first {PICTURES} images)"]


def test_a_dry_run_tells_and_leaves_no_run(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    events, original = [], builders.load_base
    monkeypatch.setattr(builders, "load_base", lambda *args, **more: replace(original(*args, **more), is_guessed=True))
    wanted = recipe(train={"steps": 12, "micro_batch_size": 2}, validation={"pictures": 1})
    ahead = job.train(wanted, dry_run=True, reporter=Recorder(events.append))
    notes = [event.text for event in events if isinstance(event, Note)]
    assert 'predicts v: base.prediction = "epsilon" takes it for the other' in "".join(notes)
    assert list(tmp_path.iterdir()) == []
    document = ahead.document()
    assert (document["pictures"], document["held_out"], document["steps"]) == (5, 1, 12)
    assert document["estimated_seconds"] == pytest.approx(12 * document["seconds_per_step"])
    assert document["estimated_peak_memory"] == 3 * 2**20
    assert {"base", "tuner", "data", "training", "steps", "memory", "time"} == dict(ahead.summary()).keys()


def test_a_dry_run_makes_no_pass_that_memory_does_not_hold(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "forecast", lambda *_: Forecast({"activations": 2**60}))
    passes = []
    monkeypatch.setattr(trainer.Trainer, "backward", lambda *_: passes.append(1))
    ahead = job.train(recipe(), dry_run=True)
    assert not passes and ahead.seconds_per_step is None
    rows = dict(ahead.summary())
    assert "time" not in rows and "`fit=True` finds the least change that fits" in rows["memory"]


def test_steps_that_fp16_skips_are_counted_and_at_last_too_many(recipe, tmp_path, monkeypatch):
    original, calls = objective.noise_prediction_loss, []

    def loss(*args):
        calls.append(1)
        return original(*args) * (float("nan") if len(calls) in (2, 3) or len(calls) > 5 else 1e-3)

    monkeypatch.setattr(objective, "noise_prediction_loss", loss)
    wanted = recipe(train={"precision": "fp16", "max_skipped": 2, "steps": 20, "checkpoint_every": 5})
    with pytest.raises(WorkFailed, match="step 8: 3 steps in a row were skipped, the last on 00000") as failed:
        job.train(wanted, out=tmp_path / "run")
    assert "from step 5 by `resume`" in failed.value.hint
    lines = log_of(tmp_path / "run")
    assert [line["step"] for line in lines if line["loss"] is None] == [2, 3, 6, 7]
    assert lines[4]["skipped"] == 2


def test_the_tuner_goes_to_the_hub_where_asked(recipe, tmp_path, monkeypatch):
    asked, events = [], []
    monkeypatch.setattr(job, "check_login", lambda name: asked.append(name))
    address = "https://hub/me/canny"
    monkeypatch.setattr(job, "upload", lambda folder, name, files: asked.append((folder, name)) or address)
    wanted = recipe(train={"steps": 1})
    job.train(wanted, out=tmp_path / "run", push_to_hub="me/canny", reporter=Recorder(events.append))
    assert asked == ["me/canny", (tmp_path / "run", "me/canny")]
    assert "https://hub/me/canny" in events[-1].text


def test_caption_dropout_empties_captions(recipe, tmp_path, monkeypatch):
    texts = []
    unet_arguments = job.Base.unet_arguments

    def spy(base, text, *sizes):
        texts.append(text["encoder_hidden_states"])
        return unet_arguments(base, text, *sizes)

    monkeypatch.setattr(job.Base, "unet_arguments", spy)
    for share in (0.0, 1.0):
        job.train(recipe(data={"caption_dropout": share}, train={"steps": 1}), out=tmp_path / str(share))
    kept, dropped = texts
    empty = load_base(tiny.pipeline_folder(tiny.SMALLEST)).encode_prompts([""])["encoder_hidden_states"]
    assert torch.allclose(dropped, empty.expand_as(dropped), atol=1e-6)
    assert not torch.allclose(kept[0], kept[1])


def test_an_sc_tuner_learns_without_conditions(recipe, tmp_path):
    wanted = recipe(train={"steps": 1, "ema_decay": 0.0})
    sc = Recipe.from_dict(wanted.model_dump() | {"tuner": {"kind": "sc"}})
    result = job.train(sc, out=tmp_path / "run")
    tuner = load_tuner(tmp_path / "run")
    assert tuner.kind == "sc" and result.document()["control_score"] is None
    assert any(each.up.weight.any() for each in tuner.maps)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tuner": {"condition": "depth"}}, "depth_file_name"),
        ({"data": {"path": "nowhere"}}, "nowhere"),
        ({"data": {"size": [64, 64]}}, "data.size is for shards that are streamed, and data.path names none"),
        ({"base": {"model": "nobody"}}, "nobody"),
    ],
)
def test_bad_input_leaves_nothing_behind(recipe, tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SceditError, match=message):
        job.train(recipe(**changes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("condition", ["canny", "inpaint"])  # drawn with the scenes, and made while training
def test_the_main_job_in_small(tmp_path, monkeypatch, condition):
    """The built-in recipe on the embedded base, from rendered scenes to the control score."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(job.Base, "defaults", Defaults(128, 2, 3.0))
    sets = ["train.steps=1", "train.batch_size=2", "data.scenes=3", "samples.every=0", "score.scenes=1"]
    events: list = []
    recipe = load_recipe("canny", settings([*sets, f"tuner.condition={condition}"]))
    result = job.train(recipe, reporter=Recorder(events.append))
    document = result.document()
    assert document["run"] == "runs/canny" and load_tuner("runs/canny").condition == condition
    assert load_recipe("runs/canny/recipe.toml").data.make == ([condition] if condition == "inpaint" else [])
    assert not [event.text for event in events if isinstance(event, Note) and "made while" in event.text]
    assert document["consistency"]["scenes"] == 1
    assert all(0 <= document["consistency"][key] <= 1 for key in ("with", "without", "reconstruction"))
