"""Training on shards that are streamed: what a dataset folder teaches, resumed bit for bit, and on two processes."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scedit_cli.core.weights import load_tuner
from scedit_cli.data.cache import cache_latents_and_text
from scedit_cli.data.dataset import open_dataset, read_rows, write_rows
from scedit_cli.data.importing import Rejected
from scedit_cli.data.scenes import write_scenes
from scedit_cli.data.shard_dataset import ShardDataset, open_streamed
from scedit_cli.data.shards import write_shards
from scedit_cli.data.stream import Stream
from scedit_cli.jobs import train as job
from scedit_cli.models.base import load_base
from scedit_cli.recipe import Recipe
from scedit_cli.training.memory import Forecast
from scedit_cli.utils.errors import SceditError
from tests import tiny
from tests.preparing import prepare
from tests.ranks import together
from tests.recorder import Note, Recorder, notes_to

PICTURES = 11


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, PICTURES, size=64, kinds=("canny",))
    write_shards(open_dataset(folder), folder / "shards", 3)
    return folder


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SCEDIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(job, "forecast", lambda *_: Forecast({"weights": 2**20}))  # takes longer than these runs


@pytest.fixture
def recipe(scenes):
    def make(**sections: dict) -> Recipe:
        plain = {
            "base": {"model": str(tiny.pipeline_folder(tiny.SMALLEST))},
            "tuner": {"kind": "csc", "condition": "canny", "hint_channels": 16},
            "data": {"path": str(scenes / "shards"), "caption_dropout": 0.3},
            "train": {
                "steps": 5, "batch_size": 5, "micro_batch_size": 2, "learning_rate": 1e-4, "checkpoint_every": 2,
                "precision": "fp32",
            },
            "samples": {"every": 0},
            "validation": {"pictures": 2, "every": 5},
            "checkpoints": {"keep": 9},
        }  # fmt: skip
        for section, changes in sections.items():
            plain[section] |= changes
        return Recipe.from_dict(plain)

    return make


def same(one: Path, other: Path) -> bool:
    a, b = (load_file(run / "checkpoints/step-000005/optimizer.safetensors") for run in (one, other))
    c, d = (load_file(run / "tuner.safetensors") for run in (one, other))
    return all(torch.equal(a[key], b[key]) for key in a) and all(torch.equal(c[key], d[key]) for key in c)


def test_what_is_streamed_is_what_would_be_cached(scenes):
    base = load_base(tiny.pipeline_folder(tiny.SMALLEST))
    cache = cache_latents_and_text(open_dataset(scenes), base, ["canny"])
    stream = Stream(open_streamed(str(scenes / "shards"), (64, 64), ("canny",)), 4)
    batch = next(stream.batches()).encoded(base)
    captions = [item.text for item in open_dataset(scenes).items]
    indices = batch.indices  # the shards were written in the folder's order
    assert torch.allclose(batch.moments, cache.moments_of(indices), atol=1e-5) and len({*captions}) == PICTURES
    text, cached = (each["encoder_hidden_states"] for each in (batch.text, cache.text_of(indices)))
    assert torch.allclose(text, cached, atol=1e-5)
    assert torch.equal(batch.hints["canny"], cache.hints["canny"].batch(indices, 0))
    assert torch.equal(batch.sizes, cache.sizes[torch.tensor(indices)])


def test_a_killed_run_goes_on_bit_for_bit(recipe, tmp_path):
    whole = job.train(recipe(), out=tmp_path / "whole")
    assert whole.steps == 5 and any(each.up.weight.any() for each in load_tuner(whole.tuner).maps)
    for step in (2, 4):
        run = tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / "whole", run)
        for later in range(step + 1, 6):
            shutil.rmtree(run / f"checkpoints/step-{later:06d}", ignore_errors=True)
        resumed = job.train(recipe(), out=run, resume=True)
        assert resumed.resumed_at == step and same(tmp_path / "whole", run)
        assert resumed.validation_loss == whole.validation_loss


@pytest.mark.parametrize("held", [("canny", "color"), ("canny",)])
def test_several_conditions_are_streamed_and_resumed(recipe, tmp_path, held):
    """Whether the shards hold them all, or one is made."""
    kinds, shards = ("canny", "color"), tmp_path / "shards"
    write_scenes(tmp_path / "scenes", PICTURES, size=64, kinds=held)
    dataset = open_dataset(tmp_path / "scenes")
    write_shards(dataset, shards, 3)
    base = load_base(tiny.pipeline_folder(tiny.SMALLEST))
    batch = next(Stream(open_streamed(str(shards), (64, 64), held), 4).batches()).encoded(base)
    cache = cache_latents_and_text(dataset, base, held)
    assert all(torch.equal(batch.hints[kind], cache.hints[kind].batch(batch.indices, 0)) for kind in held)
    both = {"condition": None, "conditions": list(kinds)}
    data = {"path": str(shards), "hint_dropout": {"canny": 0.5}, "make": sorted(set(kinds) - set(held))}
    wanted = recipe(tuner=both, data=data)
    job.train(wanted, out=tmp_path / "whole")
    bundle = load_tuner(tmp_path / "whole")
    assert [each.condition for each in bundle.tuners] == list(kinds)
    assert all(tuner_map.up.weight.any() for each in bundle.tuners for tuner_map in each.maps)
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    for later in range(3, 6):
        shutil.rmtree(tmp_path / f"run/checkpoints/step-{later:06d}", ignore_errors=True)
    assert job.train(wanted, out=tmp_path / "run", resume=True).resumed_at == 2
    assert same(tmp_path / "whole", tmp_path / "run")


def test_a_stream_that_breaks_off_leaves_a_checkpoint(recipe, tmp_path, monkeypatch):
    wanted, cut, cuts = recipe(train={"checkpoint_every": 0}), ShardDataset.cut, iter(range(1000))
    broken = Rejected("unreadable", "the network is gone")
    monkeypatch.setattr(ShardDataset, "cut", lambda data, sample: cut(data, sample) if next(cuts) < 22 else broken)
    with pytest.raises(SceditError, match="samples cannot be used; the last: .*the network is gone"):
        job.train(wanted, out=tmp_path / "run")
    monkeypatch.undo()
    result = job.train(wanted, out=tmp_path / "run", resume=True)
    job.train(wanted, out=tmp_path / "whole")
    assert result.resumed_at and same(tmp_path / "run", tmp_path / "whole")


def test_a_run_is_not_resumed_on_other_data(recipe, scenes, tmp_path):
    """As many pictures, but another one among them; of shards and of a folder."""
    copy = tmp_path / "data"
    shutil.copytree(scenes, copy, ignore=shutil.ignore_patterns("cache"))
    for changed in ("shards/000000.tar", "conditions/canny/000003.png", "images/000001.png"):
        path = copy / "shards" if changed.endswith(".tar") else copy
        wanted, run = recipe(data={"path": str(path)}, train={"steps": 2}), tmp_path / f"run-{Path(changed).name}"
        job.train(wanted, out=run)
        file = copy / changed
        before = file.read_bytes()
        other = copy / "images/000005.png"
        file.write_bytes(before + bytes(10240) if file.suffix == ".tar" else other.read_bytes())
        with pytest.raises(SceditError, match="the data to resume on is not what it was: the images, captions, "):
            job.train(recipe(data={"path": str(path)}, train={"steps": 3}), out=run, resume=True)
        file.write_bytes(before)


def test_weights_weigh_what_is_streamed(recipe, scenes, tmp_path):
    """As the folder says, through shards and back; a sample whose weight is none is passed over."""
    folder = tmp_path / "weighed"
    shutil.copytree(scenes, folder, ignore=shutil.ignore_patterns("cache", "shards"))
    rows = [row for _, row in read_rows(folder)]
    write_rows(folder, [row | {"weight": n / 2} for n, row in enumerate(rows)])
    write_shards(open_dataset(folder), folder / "shards", 4)
    batch = next(Stream(open_streamed(str(folder / "shards"), (64, 64), ("canny",)), 8).batches())
    assert batch.weights.tolist() == [index / 2 for index in batch.indices]
    prepare(folder / "shards", tmp_path / "back", size=64)
    assert open_dataset(tmp_path / "back").weights == open_dataset(folder).weights

    write_rows(folder, [row | {"weight": 0} for row in rows])
    write_shards(open_dataset(folder), folder / "shards", 4)
    result = job.train(recipe(data={"path": str(folder / "shards")}, train={"steps": 1}), out=tmp_path / "run")
    assert result.loss == 0

    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        for number, weight in enumerate((1, "much", 1)):
            about = json.dumps({"weight": weight}).encode()
            for name, content in (("png", (folder / f"images/{number:06d}.png").read_bytes()), ("json", about)):
                member = tarfile.TarInfo(f"{number}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    told: list[str] = []
    stream = Stream(open_streamed(str(tmp_path / "bad.tar"), (64, 64)), 1, reporter=notes_to(told.append))
    assert {number for raw in islice(stream.batches(), 6) for number in raw.indices} == {0, 2}
    assert any("1.json: weight is 'much'" in each for each in told)


def test_conditions_are_made_while_it_streams(recipe, tmp_path):
    wanted = recipe(
        tuner={"condition": "inpaint"}, data={"make": ["inpaint"]}, train={"steps": 1}, validation={"pictures": 0}
    )
    job.train(wanted, out=tmp_path / "run")
    assert load_tuner(tmp_path / "run").in_channels == 4


def test_what_no_shard_has_is_made_while_it_streams(scenes, recipe, tmp_path):
    """Of a batch larger than all there is."""
    folder = tmp_path / "plain"
    write_scenes(folder, PICTURES, size=64, kinds=())
    shards = write_shards(open_dataset(folder), folder / "shards", 3)[0].parent
    losses = []
    for name, path in (("made", shards), ("read", scenes / "shards")):
        events: list = []
        wanted = recipe(data={"path": str(path)}, train={"steps": 2, "batch_size": 14}, validation={"pictures": None})
        job.train(wanted, out=tmp_path / name, reporter=Recorder(events.append))
        told = [event.text for event in events if isinstance(event, Note)]
        assert any(f"{path} has no canny images: they are made while" in each for each in told) == (name == "made")
        assert any("10 images, 1 more held out; streamed" in each for each in told)
        assert any("; fewer than a batch of 14, so each comes several times in a batch" in each for each in told)
        losses.append([json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").open()])
    assert losses[0] == losses[1]
    hint = "`annotate(DATASET, kinds=depth)` makes it, for `prepare(shards=N)` to take along"
    with pytest.raises(SceditError, match="it has no depth image") as error:
        job.train(recipe(tuner={"condition": "depth"}), out=tmp_path / "run")
    assert hint in error.value.hint


def test_pictures_are_cut_to_the_size_that_is_asked_for(recipe, tmp_path):
    ahead = job.train(recipe(data={"size": [128, 64], "upscale": True}), out=tmp_path / "run", dry_run=True)
    rows = dict(ahead.summary())
    assert rows["data"] == "9 images, 2 more held out; streamed from 4 shards, cut to 128x64, encoded at each step"
    assert ahead.document()["shards"] == 4 and ahead.seconds_per_step > 0 and not (tmp_path / "run").exists()
    with pytest.raises(SceditError, match="data.path: none of the 11 samples can be used; the last: .*64x64 pixels"):
        job.train(recipe(data={"size": [128, 64]}), out=tmp_path / "run")
    with pytest.raises(SceditError, match="72 x 64|72x64"):
        job.train(recipe(data={"size": [72, 64], "upscale": True}), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tuner": {"condition": "depth"}}, "it has no depth image"),
        ({"validation": {"pictures": 11}}, "validation.pictures: 11 of at most 11 images"),
        ({"data": {"path": "nowhere/{0..3}.tar"}}, "nowhere/0.tar does not exist"),
        ({"data": {"path": "pipe:cat x.tar"}}, "no commands are run here"),
    ],
)
def test_mistakes_are_told_before_the_first_step(recipe, tmp_path, changes, told):
    with pytest.raises(SceditError, match=told):
        job.train(recipe(**changes), out=tmp_path / "run")
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_two_processes_stream_what_one_does(recipe, scenes, tmp_path):
    """Four lanes for five places, an unreadable picture, and the second process' own notes."""
    copy = tmp_path / "data"
    shutil.copytree(scenes / "shards", copy)
    shard = copy / "000003.tar"
    shard.write_bytes(shard.read_bytes()[:9000])
    events: list = []
    alone = job.train(recipe(data={"path": str(copy)}), out=tmp_path / "one", reporter=Recorder(events.append))
    assert any(isinstance(event, Note) and "000003.tar" in event.text for event in events)
    file = tmp_path / "together.toml"
    file.write_text(recipe(data={"path": str(copy)}).to_toml())
    document, told = together(tmp_path, "train", "--recipe", file, "--out", tmp_path / "two")
    assert "000003.tar" in told and document["steps"] == 5
    assert document["validation_loss"] == pytest.approx(alone.validation_loss, rel=1e-5)
    a, b = (load_file(tmp_path / run / "tuner.safetensors") for run in ("one", "two"))
    assert max((a[key] - b[key]).abs().max().item() for key in a) < 1e-5
    logs = [[json.loads(line)["loss"] for line in (tmp_path / run / "log.jsonl").open()] for run in ("one", "two")]
    assert logs[1] == pytest.approx(logs[0], rel=1e-5)
