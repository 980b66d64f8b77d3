"""Regions, sizes, sweeps, prompts files, pictures to start from, and making a picture again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from scedit_cli.conditions import annotate
from scedit_cli.jobs import generate as job
from scedit_cli.models.base import load_base
from scedit_cli.utils.errors import SceditError
from tests import tiny
from tests.jobs.drawn import draw, near, pixels, same, settings
from tests.recorder import Note, Recorder


def test_conditions_rule_their_regions(generate, masks, tmp_path):
    options = {"conds": ["{}/canny.png"], "tuners": ["{}/canny.safetensors"]}

    def picture(name: str, **more):
        return generate(**options | more, out=tmp_path / f"{name}.out.png").images[0].path

    full, base = picture("full"), picture("base", scales=["canny=0"])
    assert same(picture("white", masks=[f"canny={masks}/white.png"]), full)
    assert same(picture("black", masks=[f"canny={masks}/black.png"]), base)
    left = picture("left", masks=[f"canny={masks}/left.png"])
    assert not near(left, full) and not near(left, base)
    two = {"conds": ["{}/canny.png", "{}/color.png"], "tuners": ["{}/canny.safetensors", "{}/color.safetensors"]}
    apart = [f"canny={masks}/left.png", f"color={masks}/right.png"]
    assert not near(picture("apart", **two, masks=apart), picture("both", **two))
    assert not near(picture("apart again", **two, masks=apart), picture("swapped", **two, masks=apart[:1]))
    styled = {"conds": [], "tuners": ["{}/style.safetensors"]}
    masked = picture("masked style", **styled, masks=[f"style={masks}/left.png"])
    assert not near(masked, picture("style", **styled))


def test_a_condition_may_be_left_out_of_a_bundle(generate, tmp_path):
    bundle = generate(tuners=["{}/both.safetensors"], out=tmp_path / "bundle.png")
    style = generate(tuners=["{}/style.safetensors:0.25"], out=tmp_path / "style.png")
    assert near(bundle.images[0].path, style.images[0].path)


def test_a_prompts_file_steers_every_line_for_itself(generate, files, tmp_path):
    lines = [
        {"prompt": "a", "seed": 3, "negative": "fog", "scales": {"canny": 0.5}},
        {"prompt": "a", "seed": 3, "conditions": {"canny": None}},
        {"prompt": "a", "seed": 3, "conditions": {"canny": str(files / "color.png")}},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = {"tuners": ["{}/canny.safetensors"], "seed": 3}
    given = generate(prompts_file=tmp_path / "p.jsonl", conds=["{}/canny.png"], **options)
    one, two, three = [image.path for image in given.images]
    half = {"conds": ["{}/canny.png:0.5"], "negative": "fog"}
    assert near(one, generate(prompts=["a"], **half, **options).images[0].path)
    assert near(two, generate(prompts=["a"], seed=3).images[0].path)
    assert near(three, generate(prompts=["a"], conds=["canny={}/color.png"], **options).images[0].path)
    assert given.images[0].scales == {"canny": 0.5}
    assert settings(two)["conds"] == [] and settings(two)["tuners"] == [f"{files}/canny.safetensors:1.0"]


def test_what_has_no_effect_without_guidance_is_told(generate, tmp_path):
    events = []
    options = {"negative": "fog", "guidance_rescale": 0.5, "reporter": Recorder(events.append)}
    generate(**options)
    assert not [event for event in events if isinstance(event, Note)]
    one = generate(**options, guidance=1, out=tmp_path / "1.png").images[0].path
    (note,) = [event.text for event in events if isinstance(event, Note)]
    idle = "the negative prompt and --guidance-rescale"
    assert note == f"{idle} have no effect at a guidance of 1, which is none"
    assert near(one, generate(guidance=1, out=tmp_path / "2.png").images[0].path)


def test_a_sweep_draws_every_scale_and_a_labelled_grid(generate):
    options = {"conds": ["{}/canny.png"], "tuners": ["{}/canny.safetensors", "{}/style.safetensors"], "prompts": ["a"]}
    swept = generate(**options, sweeps=["style=0,1", "canny=0,0.5,1"], grid=True, batch_size=2)
    assert [image.scales for image in swept.images[:4]] == [
        {"style": 0.0, "canny": 0.0},
        {"style": 0.0, "canny": 0.5},
        {"style": 0.0, "canny": 1.0},
        {"style": 1.0, "canny": 0.0},
    ]
    alone = generate(conds=["{}/canny.png:0.5"], tuners=["{}/canny.safetensors"], prompts=["a"])
    assert near(swept.images[1].path, alone.images[0].path)
    assert near(swept.images[5].path, generate(**options).images[0].path)
    sheet = Image.open(swept.grid)
    assert sheet.width >= 4 * 256 and 2 * 256 <= sheet.height < 3 * 256  # condition and three scales, two styles
    ink = np.asarray(sheet.convert("L"))[:24, 300:] < 128
    assert ink.sum() > 50  # the scales over the columns


@pytest.mark.parametrize(
    ("given", "rule", "words"),
    [
        ((3000, 20), "crop", "enlarged and cropped to"),
        ((300, 200), "crop", "cropped to"),
        ((1, 1), "crop", "enlarged to"),
        ((256, 256), "fit", "reduced to"),
        ((100, 20), "fit", "enlarged and set between bars in"),
        ((300, 20), "fit", "set between bars in"),
        ((300, 20), "stretch", "stretched to"),
    ],
)
def test_how_an_image_is_brought_to_another_size_is_told(given, rule, words):
    from scedit_cli.inference.sizes import fitting

    assert fitting(given, (128, 128), rule) == words


def test_sizes_follow_the_condition_by_a_rule_that_is_told(generate, files, tmp_path):
    events = []
    options = {
        "conds": ["color={}/seg-72x64.png"], "tuners": ["{}/color.safetensors"], "reporter": Recorder(events.append)
    }  # fmt: skip
    result = generate(**options, conds_from=[], out=tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (64, 64)
    assert [event.text for event in events if isinstance(event, Note)] == [
        f"{files}/seg-72x64.png: 72x64 pixels, cropped to 64x64"
    ]
    given = Image.open(files / "seg-72x64.png")
    assert np.array_equal(np.asarray(result.conditions["color"]), np.asarray(given.convert("RGB"))[:, 4:68])
    fitted = generate(**options, resize="fit", out=tmp_path / "fit.png").conditions["color"]
    assert not np.asarray(fitted)[:3].any() and np.asarray(fitted)[8:56].any()
    stretched = generate(**options, resize="stretch", out=tmp_path / "stretch.png").conditions["color"]
    assert np.array_equal(np.asarray(stretched), np.asarray(given.resize((64, 64), Image.Resampling.LANCZOS)))
    generate(**options, width=128, out=tmp_path / "wide.png")
    assert Image.open(tmp_path / "wide.png").size == (128, 64)  # by the condition's proportions
    generate(**options, height=128, width=64, out=tmp_path / "high.png")
    assert Image.open(tmp_path / "high.png").size == (64, 128)


def test_sixteen_bit_conditions_keep_their_depth_when_resized():
    from scedit_cli.inference.sizes import resized

    levels = np.linspace(0, 65535, 72 * 64).astype(np.uint16).reshape(64, 72)
    cut = np.asarray(resized(Image.fromarray(levels), (64, 64), "crop"))
    assert cut.dtype == np.uint16 and np.array_equal(cut, levels[:, 4:68])


def test_a_photo_is_resized_before_it_is_annotated_and_large_ones_shrink(generate, files, tmp_path):
    photo = Image.open(files / "photo.png").resize((300, 200))
    photo.save(tmp_path / "large.png")
    made = generate(conds_from=[f"canny={tmp_path}/large.png"], tuners=["{}/canny.safetensors"])
    assert Image.open(made.images[0].path).size == (64, 64)
    from scedit_cli.inference.sizes import resized

    expected = annotate("canny", resized(photo.convert("RGB"), (64, 64), "crop"))
    assert np.array_equal(np.asarray(made.conditions["canny"]), np.asarray(expected))


def test_a_photograph_given_as_edges_is_told(generate, files, tmp_path):
    events, options = [], {"tuners": ["{}/canny.safetensors"], "reporter": Recorder(lambda event: events.append(event))}
    generate(conds=["{}/canny.png"], **options)
    assert not [event for event in events if isinstance(event, Note)]
    generate(conds=["canny={}/photo.png"], out=tmp_path / "b", **options)
    (note,) = [event.text for event in events if isinstance(event, Note)]
    said = "has colours, and canny images are gray; --cond-from canny=PHOTO makes one of a photograph"
    assert note == f"{files}/photo.png {said}"
    generate(conds_from=["canny={}/photo.png"], out=tmp_path / "c", **options)
    assert len([event for event in events if isinstance(event, Note)]) == 1


def test_image_to_image_inpaint_and_outpaint(generate, files, masks):
    options = {"image": "{}/photo.png", "prompts": ["a"], "steps": 4}
    photo = pixels(files / "photo.png")
    weak = generate(**options, strength=0.25).images[0].path
    assert not near(weak, generate(**options).images[0].path)
    assert settings(weak)["strength"] == 0.25
    drawn = generate(**options, inpaint=f"{masks}/left.png").images[0].path
    assert np.array_equal(pixels(drawn)[:, 32:], photo[:, 32:])
    assert (np.abs(pixels(drawn) - photo)[:, :32].max(-1) > 0).mean() > 0.9
    events = []
    larger = generate(**options, outpaint="0,64,40,0", reporter=Recorder(events.append)).images[0].path
    (note,) = [event.text for event in events if isinstance(event, Note)]
    assert note.startswith(f"{files}/photo.png: 104x128 pixels with its margins, extended to 128x128: the sides of")
    assert Image.open(larger).size == (128, 128)  # the margin to the right grows to what the base takes
    assert np.array_equal(pixels(larger)[64:, :64], photo)
    tuned = generate(**options, inpaint=f"{masks}/left.png", conds=["{}/canny.png"], tuners=["{}/canny.safetensors"])
    assert not near(tuned.images[0].path, drawn)
    assert np.array_equal(pixels(tuned.images[0].path)[:, 32:], photo[:, 32:])
    again = generate(from_file=larger, steps=None)
    assert same(again.images[0].path, larger)


def test_bad_starts_are_told(generate, masks, tmp_path):
    Image.new("L", (32, 64), 255).save(tmp_path / "small.png")
    for mask, message in {"small.png": "small.png is 32x64 pixels, the image 64x64", "black.png": "is black"}.items():
        with pytest.raises(SceditError, match=message):
            generate(image="{}/photo.png", inpaint=str(tmp_path / mask))
    with pytest.raises(SceditError, match="--image: .*gone.png does not exist"):
        generate(image="gone.png")
    with pytest.raises(SceditError, match="--mask color: no tuner of that name") as error:
        generate(masks=[f"color={masks}/left.png"], conds=["{}/canny.png"], tuners=["{}/canny.safetensors"])
    assert error.value.hint
    with pytest.raises(SceditError, match="--sweep cany: no tuner") as error:
        generate(sweeps=["cany=1"], conds=["{}/canny.png"], tuners=["{}/canny.safetensors"])
    assert error.value.hint == "did you mean canny?"


def test_a_name_that_several_tuners_have_is_told(generate, files, tmp_path):
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "warm.safetensors").write_bytes((files / "style.safetensors").read_bytes())
    tuners = [f"{tmp_path}/{run}/warm.safetensors" for run in ("one", "two")]
    with pytest.raises(SceditError, match="--scale warm: 2 tuners have that name") as error:
        generate(tuners=tuners, scales=["warm=0.5"])
    assert error.value.hint.endswith("in --tuner")


EVERYTHING = {
    "prompts": ["a", "b"], "negative": "fog", "seed": "4,9", "conds": ["{}/canny.png:0.7:0-0.5"],
    "conds_from": ["color={}/photo.png:-0.3"], "tuners": ["{}/both.safetensors:0.8", "{}/color.safetensors"],
    "scales": ["both=0.4"], "masks": ["canny={masks}/left.png"], "sweeps": ["canny=0.3,1"], "steps": 3,
    "guidance": 4.0, "control_guidance": 2.5, "guidance_span": "0.2-0.9", "guidance_rescale": 0.2, "width": 128,
    "height": 64, "resize": "fit", "scheduler": "EulerAncestralDiscrete:timestep_spacing=trailing", "batch_size": 3,
}  # fmt: skip


def test_a_picture_is_made_again_bit_for_bit(generate, masks, tmp_path, monkeypatch):
    options = EVERYTHING | {"masks": [f"canny={masks}/left.png"]}
    made = [image.path for image in generate(**options).images]
    assert len(made) == 8 and len({pixels(path).tobytes() for path in made}) == 8
    monkeypatch.chdir(masks.parent)  # nothing depends on where it is run
    for number in (0, 3, 7):
        (again,) = generate(from_file=made[number], steps=None, out=tmp_path / "again").images
        assert same(again.path, made[number])
        before, after = settings(made[number]), settings(again.path)
        assert before == after
    (other,) = generate(from_file=made[0], steps=None, seed=5, out=tmp_path / "again").images
    assert other.seed == 5 and not near(other.path, made[0])
    (weak,) = generate(from_file=made[0], steps=None, scales=["canny=0"], out=tmp_path / "again").images
    assert not near(weak.path, made[0])


def test_making_again_needs_the_same_files(generate, files, tmp_path):
    mine = tmp_path / "canny.png"
    mine.write_bytes((files / "canny.png").read_bytes())
    (made,) = generate(conds=[str(mine)], tuners=["{}/canny.safetensors"]).images
    Image.open(files / "color.png").save(mine)
    with pytest.raises(SceditError, match="canny.png is not the file that it was made with"):
        generate(from_file=made.path, steps=None)
    mine.unlink()
    with pytest.raises(SceditError, match="canny.png is gone"):
        generate(from_file=made.path, steps=None)
    for path, message in {files / "photo.png": "does not say how", tmp_path / "gone.png": "does not exist"}.items():
        with pytest.raises(SceditError, match=message):
            generate(from_file=path, steps=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": [3, 2]}, "its batch is"),
        ({"steps": "many"}, "its steps is 'many'"),
        ({"conds": "canny.png"}, "its conds is"),
        ({"files": None}, "does not say how"),
    ],
)
def test_settings_that_were_changed_by_hand_are_told(generate, tmp_path, change, message):
    from scedit_cli.generation.provenance import encoded, settings_in

    (made,) = generate().images
    (tmp_path / "x.png").write_bytes(encoded(Image.open(made.path), ".png", settings_in(made.path) | change))
    with pytest.raises(SceditError, match=message) as error:
        generate(from_file=tmp_path / "x.png", steps=None)
    assert error.value.hint


def test_another_base_under_the_same_name_is_told(generate, monkeypatch):
    (made,) = generate().images
    other = load_base(tiny.pipeline_folder("sd15", seed=1))
    monkeypatch.setattr(job, "load_base", lambda *args, **options: other)
    with pytest.raises(SceditError, match="has other weights now"):
        generate(from_file=made.path, steps=None)


def test_names_by_template_never_collide(generate, tmp_path):
    options = {"prompts": ["A red cube!"], "seed": "1-2", "name": "{prompt}/{width}"}
    names = [image.path.relative_to(tmp_path / "out") for image in generate(**options).images]
    assert [str(name) for name in names] == ["A-red-cube/64.png", "A-red-cube/64-2.png"]
    again = generate(**options, overwrite=True).images
    assert [image.path.name for image in again] == ["64.png", "64-3.png"]


def test_a_name_that_appears_while_sampling_is_left_alone(generate, tmp_path):
    def intrude(event):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "0001.png").write_text("mine")

    (image,) = generate(reporter=Recorder(intrude)).images
    assert image.path.name == "0001-2.png" and (tmp_path / "out" / "0001.png").read_text() == "mine"


def test_pictures_are_written_batch_by_batch(generate, tmp_path):
    def stop(event):
        if (tmp_path / "out").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(num=4, batch_size=2, reporter=Recorder(stop))
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["0001.png", "0002.png"]


def test_memory_options_reach_the_base(generate, monkeypatch):
    loaded = load_base(tiny.pipeline_folder("sd15"))
    monkeypatch.setattr(job, "load_base", lambda *args, **options: loaded)
    compiled, vae = [], []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    decode = loaded.decode
    monkeypatch.setattr(
        loaded, "decode", lambda *args: vae.append((loaded.vae.use_slicing, loaded.vae.use_tiling)) or decode(*args)
    )
    plain = generate().images[0].path
    made = generate(vae_slicing=True, vae_tiling=True, compile=True, scheduler="DDIM").images[0].path
    assert vae == [(False, False), (True, True)] and compiled == ["UNet2DConditionModel"]
    assert not (loaded.vae.use_slicing or loaded.vae.use_tiling) and loaded.unet._compiled_call_impl is None
    kept = settings(made)
    assert (kept["vae_tiling"], kept["compile"], kept["scheduler"]) == (True, True, "DDIM") and not near(made, plain)


def test_the_bases_precision_and_its_tuners(generate):
    (made,) = generate(dtype="bf16", conds=["{}/canny.png"], tuners=["{}/canny.safetensors"]).images
    assert settings(made.path)["dtype"] == "bf16"
    (plain,) = generate(dtype="bf16").images
    assert not near(made.path, plain.path)
    (again,) = generate(from_file=made.path, steps=None).images
    assert same(again.path, made.path)


def test_sdxl_with_a_tuner(tmp_path):
    from scedit_cli.core.tuners import CSCTuner
    from scedit_cli.core.weights import save_tuner

    xl = load_base(tiny.pipeline_folder("sdxl"))
    tuner = CSCTuner.for_unet(xl.unet, condition="color", hint_channels=8)
    save_tuner(tiny.trained(tuner), tmp_path / "color.safetensors")
    Image.new("RGB", (96, 64), "red").save(tmp_path / "color.png")
    options = {"conds": [f"{tmp_path}/color.png"], "tuners": [f"{tmp_path}/color.safetensors"], "steps": 2, "num": 2}
    made = draw(base=xl.name, **options, out=tmp_path / "out").images
    assert Image.open(made[0].path).size == (96, 64) and not near(made[0].path, made[1].path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": "EulerDiscrete:nosuch=1"}, "'nosuch=1' is no setting of it"),
        ({"scheduler": "DDIM", "steps": 1001}, "scheduler DDIM cannot take 1001 steps"),
        ({"steps": 1001}, "cannot take 1001 steps"),
        ({"scheduler": "EDMEuler"}, "is for bases trained on"),
    ],
)
@pytest.mark.parametrize("base", ["scenes", "folder"])
def test_a_samplers_mistakes_are_told_before_weights_are_read(monkeypatch, tmp_path, base, options, message):
    monkeypatch.setattr(job, "load_base", lambda *_, **__: pytest.fail("the base was loaded"))
    place = base if base == "scenes" else str(tiny.pipeline_folder("sd15"))
    with pytest.raises(SceditError, match=message):
        draw(prompts=["a cone"], base=place, **options, out=tmp_path / "new.png")
    assert not list(tmp_path.iterdir())


def test_the_embedded_base_is_not_doubted(tmp_path):
    notes = []
    draw(prompts=["a cone"], out=tmp_path / "a.png", reporter=Recorder(notes.append))
    assert not [event for event in notes if isinstance(event, Note)]
