"""Tuners on somebody's base and images, through the library and the command line."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import scedit_cli as scedit
from scedit_cli import CSCTuner, SceditError, SCTuner, conditions, save_tuner
from scedit_cli.benchmark import tuner_evaluation
from scedit_cli.benchmark.requests import EvaluationRequest
from scedit_cli.cli import app
from scedit_cli.conditions.protocols import find_protocol
from scedit_cli.data.dataset import open_dataset, row_of, write_rows
from scedit_cli.data.evaluation_set import evaluation_set
from scedit_cli.data.shards import write_shards
from scedit_cli.generation.config import BaseConfig
from scedit_cli.inference import evaluation
from scedit_cli.inference.evaluation import WITHOUT, Evaluator
from scedit_cli.inference.sampler import sample, to_hints
from scedit_cli.models.base import load_base
from scedit_cli.scenes import shipped_tuner
from scedit_cli.training import evaluation as style
from scedit_cli.training.datasets import held_out_scenes
from scedit_cli.utils.distributed import Share
from scedit_cli.utils.reporter import SILENT
from scedit_cli.utils.specs import TunerSpec
from tests import tiny
from tests.inference.test_image_features import Inception
from tests.ranks import together
from tests.recorder import Recorder

STEPS = scedit.SamplingOptions(steps=2, guidance=1.0, batch_size=2)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SCEDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evaluations"


@pytest.fixture(scope="module")
def base():
    return load_base(tiny.pipeline_folder("sd15"))


@pytest.fixture
def tuner(base) -> CSCTuner:
    return tiny.trained(CSCTuner.for_unet(base.unet, "canny", hint_channels=8), 1)


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Five images, one of another size, with canny images for the first two."""
    folder, draw = tmp_path / "photos", np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "conditions" / "canny").mkdir(parents=True)
    rows = []
    for number in range(5):
        image = Image.fromarray(draw.integers(0, 255, (4, 4, 3), np.uint8)).resize((128 if number == 4 else 64, 64))
        image.save(folder / "images" / f"{number:06d}.png")
        kinds = ["canny"] if number < 2 else []
        if kinds:
            conditions.annotate("canny", image).save(folder / "conditions" / "canny" / f"{number:06d}.png")
        rows.append(row_of(f"{number:06d}.png", f"image {number}", kinds))
    write_rows(folder, rows)
    return folder


def run(tuners, base, dataset, **options):
    return scedit.evaluate(tuners, base=base, data=dataset, **{"sampling": STEPS} | options)


def test_images_are_drawn_and_measured_as_by_hand(base, tuner, dataset, tmp_path):
    found = run([(tuner, 0.5)], base, dataset, keep=tmp_path / "kept")
    images = open_dataset(dataset)
    wanted = [conditions.annotate("canny", Image.open(item.image)) for item in images.items]
    figures = {"with": [], "without": []}
    for places in ([0, 1], [2, 3], [4]):  # batches of one size
        size = images.sizes[places[0]]
        options = {"seeds": places, "steps": 2, "guidance": 1.0, "width": size[0], "height": size[1]}
        texts, shown = [f"image {place}" for place in places], [wanted[place] for place in places]
        with scedit.attach(base.unet, tuner, [0.5]) as edits:
            hints = {"canny": to_hints("canny", shown)}
            drawn = sample(base, texts, attachment=edits, hints=hints, batch_size=2, **options)
        for arm, made in (("with", drawn), ("without", sample(base, texts, batch_size=2, **options))):
            figures[arm] += conditions.consistencies("canny", made, shown)
            for place, image in zip(places, made, strict=True):
                assert np.array_equal(Image.open(tmp_path / "kept" / "images" / arm / f"{place:06d}.png"), image)
    canny = found["canny"]
    assert {arm: canny[arm] for arm in figures} == pytest.approx({arm: np.mean(figures[arm]) for arm in figures})
    assert canny["images"] == 5 and canny["with_low"] <= canny["with"] <= canny["with_high"]
    with (tmp_path / "kept" / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["with.consistency"]) for row in rows] == pytest.approx(figures["with"])
    assert [row["image"] for row in rows] == [f"images/{number:06d}.png" for number in range(5)]
    assert Image.open(found.details["contact_sheet"]).width > 1000
    assert found.details["annotators"] == {"canny": "opencv"} and found.details["resolution"] == ["128x64", "64x64"]


def test_what_was_drawn_is_not_drawn_again(base, tuner, dataset, monkeypatch):
    """Killed on the way and started again, for this tuner and for another: figures are the same bit for bit."""
    whole = run([tuner], base, dataset, keep=None)
    drawn, own = [], evaluation.sample
    monkeypatch.setattr(evaluation, "sample", lambda *args, **more: drawn.append(more["hints"]) or own(*args, **more))
    assert run([tuner], base, dataset).quality == whole.quality and not drawn
    other = run([(tuner, 0.25)], base, dataset)
    assert len(drawn) == 3 and all(drawn), "images without tuners were drawn once more"
    assert other["canny"]["without"] == whole["canny"]["without"] and other["canny"]["with"] != whole["canny"]["with"]


def test_an_image_of_another_size_than_its_line_says_is_refused_first(base, tuner, dataset, monkeypatch):
    rows = [json.loads(line) for line in (dataset / "metadata.jsonl").read_text().splitlines()]
    write_rows(dataset, [row | {"width": 64, "height": 64} for row in rows])
    monkeypatch.setattr(evaluation, "sample", lambda *args, **more: pytest.fail("an image was drawn"))
    with pytest.raises(SceditError, match="000004.png is 128x64 pixels, not as its line in metadata.jsonl says"):
        run([tuner], base, dataset)


def test_a_stopped_evaluation_goes_on(base, tuner, dataset, cache, monkeypatch):
    def stop(event):
        if event.step >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([tuner], base, dataset, reporter=Recorder(stop))
    there = len(list(cache.glob("*.png")))
    assert there
    resumed = run([tuner], base, dataset)
    monkeypatch.setenv("SCEDIT_CACHE", str(cache.parent / "another"))
    assert run([tuner], base, dataset).quality == resumed.quality


def test_processes_share_the_batches(base, dataset):
    images = evaluation_set(open_dataset(dataset), ["canny"])
    alone = Evaluator(base, images, find_protocol("scedit"), STEPS).run([WITHOUT])
    rows = []

    class Part(Share):
        def gathered(self, items):
            rows.extend(items)
            return rows

    for number in range(2):
        together = Evaluator(base, images, find_protocol("scedit"), STEPS, share=Part(number, 2)).run([WITHOUT])
    assert together == alone


def test_two_processes_find_what_one_does(base, tuner, dataset, tmp_path, monkeypatch):
    """Bit for bit, from caches of their own, and each thing is written by one of them."""
    file = save_tuner(tuner, tmp_path / "canny.safetensors", {"base_fingerprint": base.fingerprint})
    words = ["bench", "--quality", "--tuner", file, "--against", "none", "--base", tiny.pipeline_folder("sd15"),
             "--data", dataset, "--steps", "2", "--guidance", "1", "--batch", "2", "--device", "cpu"]  # fmt: skip
    alone = CliRunner().invoke(app, [*map(str, words), "--keep", str(tmp_path / "one"), "--json"])
    assert alone.exit_code == 0, alone.output
    monkeypatch.setenv("SCEDIT_CACHE", str(tmp_path / "another"))
    document, err = together(tmp_path, *words, "--keep", tmp_path / "two")
    assert document["quality"] == json.loads(alone.stdout)["quality"], err
    places = [tmp_path / name for name in ("one", "two")]
    one, two = (sorted(file.relative_to(place) for file in place.rglob("*.*")) for place in places)
    assert one == two
    assert (tmp_path / "one/images.csv").read_bytes() == (tmp_path / "two/images.csv").read_bytes()
    resumed, _ = together(tmp_path, *words)
    assert resumed["quality"] == document["quality"]


def test_precision_prediction_and_inception_are_the_commands(tuner, dataset, tmp_path):
    folder = tiny.pipeline_folder("sd15")
    torch.jit.script(Inception()).save(tmp_path / "inception.pt")
    plain = run([tuner], folder, dataset, inception=tmp_path / "inception.pt")
    assert plain["images"]["fid"] > 0 and "fid" not in plain.details.get("missing", {})
    changed = BaseConfig(folder, dtype="bf16"), BaseConfig(folder, prediction="v_prediction")
    others = [run([tuner], each, dataset) for each in changed]
    figures = [each["canny"]["without"] for each in (plain, *others)]
    assert len(set(figures)) == 3


@pytest.mark.parametrize("held", [(), ("canny",)])
def test_shards_are_evaluated_as_their_folder(base, tuner, dataset, tmp_path, held):
    """Conditions that the shards do not hold are made of the images."""
    for number in range(2, 5):
        (dataset / "images" / f"{number:06d}.png").unlink()
    write_rows(dataset, [row_of(f"{n:06d}.png", f"image {n}", list(held)) for n in range(2)])
    write_shards(open_dataset(dataset), tmp_path / "shards", 1)
    folder, shards = run([tuner], base, dataset), run([tuner], base, str(tmp_path / "shards"))
    assert shards.quality == folder.quality and shards["canny"]["images"] == 2


def test_two_tuners_are_compared_image_by_image(base, tuner, dataset):
    same = run([tuner], base, dataset, against=[tuner])["canny"]
    assert same["difference"] == same["difference_low"] == same["difference_high"] == 0
    found = run([tuner], base, dataset, against=[])["canny"]
    assert found["against"] == found["without"] and found["difference"] == found["with"] - found["without"] != 0
    assert found["difference_low"] < found["difference_high"]
    apart = found["with_high"] - found["with_low"] + found["without_high"] - found["without_low"]
    assert found["difference_high"] - found["difference_low"] < apart  # images explain a part of the spread


def test_no_tuner_is_the_base(base, dataset):
    write_rows(dataset, [row_of(f"{n:06d}.png", "", ["canny"]) for n in range(2)])  # those that have one
    found = run([], base, dataset)
    assert found["canny"]["with"] == found["canny"]["without"] and found["canny"]["images"] == 2


def test_some_images_are_a_fixed_choice(dataset):
    few, fewer = (evaluation_set(open_dataset(dataset), [], most=count).numbers for count in (3, 2))
    assert len(few) == 3 and set(fewer) < set(few)


def test_the_command_names_what_a_table_needs(base, tuner, dataset, tmp_path):
    file = save_tuner(tuner, tmp_path / "canny.safetensors", {"base_fingerprint": base.fingerprint})
    words = ["bench", "--quality", "--tuner", f"{file}:0.5", "--base", str(tiny.pipeline_folder("sd15")), "--data",
             str(dataset), "--steps", "2", "--guidance", "1", "--protocol", "controlnet++"]  # fmt: skip
    answer = CliRunner().invoke(app, [*words, "--json", "--out", str(tmp_path / "a.json")])
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.stdout)
    about = document["evaluation"]
    assert about["protocol"] == "controlnet++" and about["figures"] == {"canny": "f1, more is better"}
    assert (about["sampler"], about["steps"], about["guidance"]) == ("PNDMScheduler", 2, 1.0)
    assert about["tuners"] == [{"file": str(file), "condition": "canny", "scale": 0.5, "kind": "csc"}]
    assert "openai/clip-vit-base-patch16" in about["missing"]["clip_score"]
    assert "inception-2015-12-05.pt" in about["missing"]["fid"]
    before = json.loads((tmp_path / "a.json").read_text())
    before["quality"]["canny"]["score"] = 1e9
    (tmp_path / "a.json").write_text(json.dumps(before))
    answer = CliRunner().invoke(app, [*words, "--baseline", str(tmp_path / "a.json")])
    assert answer.exit_code == 1 and "canny: score was 1e+09" in answer.stderr
    answer = CliRunner().invoke(app, [*words[:-1], "scedit", "--baseline", str(tmp_path / "a.json")])
    assert answer.exit_code == 1 and "cannot be compared, protocol was controlnet++" in answer.stderr


def test_tuners_of_other_programs(base, tuner, dataset, tmp_path):
    file = save_tuner(tuner, tmp_path / "theirs.bin", format="scepter")
    mine = run([tuner], base, dataset)["canny"]
    assert run([TunerSpec(file, conditions=("canny",))], base, dataset)["canny"] == mine
    with pytest.raises(SceditError, match="no kind of condition is called 'hint'.*canny=FILE"):
        run([file], base, dataset)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data missing", "--data missing does not exist"),
        ("--prediction x", "--prediction x: not known"),
        ("--protocol ours", "--protocol ours: not known"),
        ("--inception missing.pt", "--inception missing.pt: no such file"),
        ("--clip missing", "--clip: missing does not exist"),
        ("--images 3 --scenes 4 --data photos", "--scenes counts held-out scenes"),
        ("--tuner none", "--tuner none together with other tuners"),
        ("--against missing.safetensors", "missing.safetensors: no such tuner file"),
        ("--methods sc", "--methods does nothing with --quality --tuner"),
    ],
)
def test_bad_options(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["bench", "--quality", "--tuner", "canny", *words.split()])
    assert answer.exit_code == 2 and message in answer.stderr.replace("\n  ", " "), answer.output


def test_settings_of_loading_are_not_for_a_loaded_base(base, tuner, dataset):
    for name, value in {"prediction": "epsilon", "dtype": "bf16", "device": "cpu"}.items():
        with pytest.raises(SceditError, match=f"base.{name} has no effect on a base that is loaded") as error:
            run([tuner], BaseConfig(base, **{name: value}), dataset)
        assert error.value.field == f"base.{name}"


@pytest.mark.parametrize("other", [{"vae": "x"}, {"compile": True}, {"offload": "models"}])
def test_settings_of_images_alone_are_refused(tuner, dataset, other):
    (name,) = other
    with pytest.raises(SceditError, match=f"`base.{name}` has no effect in an evaluation") as error:
        run([tuner], BaseConfig(tiny.pipeline_folder("sd15"), **other), dataset)
    assert error.value.field == f"base.{name}"


def test_bad_data(base, tuner, dataset, tmp_path):
    color = tiny.trained(CSCTuner.for_unet(base.unet, "color", hint_channels=8), 1)
    with pytest.raises(SceditError, match="controlnet\\+\\+ has no measure for color .protocol scedit measures it"):
        run([color], base, dataset, protocol="controlnet++")
    hed = tiny.trained(CSCTuner.for_unet(base.unet, "hed", hint_channels=8), 1)
    (tmp_path / "weights").mkdir()
    with pytest.raises(SceditError, match="photos has no hed images, and the annotator cannot be loaded") as error:
        run([hed], base, dataset, weights=tmp_path / "weights")
    assert error.value.exit_code == 2 and error.value.hint
    for name in ("000002", "000000"):  # also the first, whose size is that of the setting
        before = (dataset / "images" / f"{name}.png").read_bytes()
        (dataset / "conditions" / "canny" / f"{name}.png").unlink(missing_ok=True)
        write_rows(dataset, [row_of(f"{n:06d}.png", "", []) for n in range(5)])
        Image.new("RGB", (48, 64)).save(dataset / "images" / f"{name}.png")
        with pytest.raises(SceditError, match=f"{name}.png is 48x64 pixels; the sides of base .* are multiples of 64"):
            run([tuner], base, dataset)
        (dataset / "images" / f"{name}.png").write_bytes(before)
    plain = tiny.trained(SCTuner.for_unet(base.unet), 1)
    write_rows(dataset, [row_of("000000.png", "", [])])
    with pytest.raises(SceditError, match="no condition images that protocol scedit measures .*annotate"):
        run([plain], base, dataset)


@pytest.fixture(scope="module")
def embedded():
    return load_base("scenes")


def test_the_style_of_an_sc_tuner_is_drawn_as_the_options_say(embedded, monkeypatch):
    drawn, own = [], style.sample
    monkeypatch.setattr(style, "sample", lambda *args, **more: drawn.append(own(*args, **more)) or drawn[-1])
    options = scedit.SamplingOptions(steps=1, guidance=2.0, scheduler="euler", seed=7, batch_size=2)
    found = scedit.evaluate([shipped_tuner("style")], base=embedded, images=3, sampling=options)
    texts = [shown.text for shown in held_out_scenes(3, 0, (), 128, "plain")]
    how = {"steps": 1, "guidance": 2.0, "scheduler": "euler", "batch_size": 2}
    with scedit.attach(embedded.unet, scedit.load_tuner(shipped_tuner("style"))) as edits:
        wanted = sample(embedded, texts, attachment=edits, seeds=[7, 8, 9], **how)
    assert all(np.array_equal(*pair) for pair in zip(drawn[0], wanted, strict=True))
    assert {name: found.details[name] for name in ("steps", "guidance", "sampler", "seed")} == {
        "steps": 1, "guidance": 2.0, "sampler": "euler", "seed": 7,
    }  # fmt: skip


def test_conditions_are_guided_as_the_options_say(embedded):
    tuner, draw = shipped_tuner("canny"), partial(scedit.evaluate, base=embedded, images=2)
    own, half, full = (
        draw([tuner], sampling=scedit.SamplingOptions(steps=2, **given))
        for given in ({}, {"control_guidance": 1.5}, {"control_guidance": 2.0})
    )
    assert [each.details["control_guidance"] for each in (own, half, full)] == [1, 1.5, 2]
    assert own["canny"]["with"] < half["canny"]["with"] < full["canny"]["with"]
    with pytest.raises(SceditError, match="control_guidance is 4, and the guidance of the prompt 2"):
        draw([tuner], sampling=scedit.SamplingOptions(steps=2, control_guidance=4.0))
    with pytest.raises(SceditError, match="`control_guidance` 2: an SC-Tuner takes no condition images"):
        draw([shipped_tuner("style")], sampling=scedit.SamplingOptions(steps=2, control_guidance=2.0))


@pytest.mark.parametrize("option", ["clip", "inception", "weights", "keep", "protocol"])
def test_options_without_an_effect_on_a_style_are_refused(embedded, tmp_path, option):
    (tmp_path / "inception.pt").touch()
    given = {"inception": tmp_path / "inception.pt", "protocol": "controlnet++"}.get(option, tmp_path)
    with pytest.raises(SceditError, match=f"`{option}` .*an SC-Tuner on scenes") as error:
        scedit.evaluate([shipped_tuner("style")], base=embedded, images=1, **{option: given})
    assert error.value.field == option and error.value.hint


def test_launched_processes_evaluate_on_a_device_each(base, monkeypatch):
    opened = []
    monkeypatch.setattr(tuner_evaluation, "launched", lambda: 2)
    monkeypatch.setattr(tuner_evaluation, "best_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(tuner_evaluation, "device_here", lambda name: f"{name}:1")
    monkeypatch.setattr(tuner_evaluation, "load_base", lambda model, **options: opened.append(options["device"]) or base)
    for given in (None, "cpu"):
        tuner_evaluation._opened(EvaluationRequest(device=given), [], SILENT)
    assert opened == ["cuda:1", "cpu"]
