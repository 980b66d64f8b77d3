"""`scedit generate --frames`: videos by AnimateDiff's and Stable Video Diffusion's own pipelines."""

from __future__ import annotations

import shutil
from itertools import combinations

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from scedit_cli import Control, CSCTuner, SCTuner, load_base
from scedit_cli.core.weights import save_tuner
from scedit_cli.data.frames import check_frames, frames_of
from scedit_cli.generation.video import flicker
from scedit_cli.inference.config import SamplerConfig
from scedit_cli.inference.sizes import resized
from scedit_cli.jobs import generate as job
from scedit_cli.models.loading import quiet
from scedit_cli.models.video import load_video_base
from scedit_cli.utils.errors import SceditError
from tests import tiny
from tests.core.skip_models import svd
from tests.jobs.drawn import draw, settings

FRAMES, SIDE = 3, 32


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Pipelines for videos, conditions and tuners."""
    folder = tmp_path_factory.mktemp("video")
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        images = tiny.pipeline(tiny.SMALLEST)
        images.save_pretrained(folder / "images")
        adapter = diffusers.MotionAdapter(
            block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=4, motion_num_attention_heads=2
        )
        adapter.save_pretrained(folder / "adapter")
        schedule = diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=False)
        diffusers.AnimateDiffPipeline(
            vae=images.vae, text_encoder=images.text_encoder, tokenizer=images.tokenizer, unet=images.unet,
            motion_adapter=adapter, scheduler=schedule,
        ).save_pretrained(folder / "motion")  # fmt: skip
        encoder = CLIPVisionConfig(
            hidden_size=8, projection_dim=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            image_size=224, patch_size=112,
        )  # fmt: skip
        blocks = {"block_out_channels": (32,) * 4, "down_block_types": ("DownEncoderBlock2D",) * 4}
        diffusers.StableVideoDiffusionPipeline(
            vae=diffusers.AutoencoderKLTemporalDecoder(**blocks, layers_per_block=1, latent_channels=4), unet=svd(),
            image_encoder=CLIPVisionModelWithProjection(encoder), feature_extractor=CLIPImageProcessor(),
            scheduler=diffusers.EulerDiscreteScheduler(
                timestep_type="continuous", prediction_type="v_prediction", sigma_min=0.002, sigma_max=700.0,
                use_karras_sigmas=True,
            ),
        ).save_pretrained(folder / "svd")  # fmt: skip
    drawn = np.random.default_rng(0).integers(0, 256, (FRAMES + 1, SIDE, SIDE, 3), dtype=np.uint8)
    frames = [Image.fromarray(each).resize((8, 8)).resize((SIDE, SIDE), 0) for each in drawn]
    for place in ("color", "short"):
        (folder / place).mkdir()
    for number, frame in enumerate(frames):  # unpadded numbers: frame10 comes after frame9
        frame.save(folder / "color" / f"frame{8 + number}.png")
    for number in range(2):
        frames[number].save(folder / "short" / f"{number}.png")
    frames[0].save(folder / "color.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "color.png")
    fresh = {"motion": load_base(folder / "images").unet, "svd": load_video_base(folder / "svd").unet}
    about = {"base": "images", "base_fingerprint": load_base(folder / "images").fingerprint}
    for name, unet in fresh.items():
        known = about if name == "motion" else {}
        color = CSCTuner.for_unet(unet, condition="color", hint_channels=8)
        save_tuner(color, folder / f"fresh-{name}.safetensors", known)
        save_tuner(SCTuner.for_unet(unet), folder / f"style-{name}.safetensors", known)
        save_tuner(tiny.trained(color, 1, 0.3), folder / f"trained-{name}.safetensors", known)
    return folder


@pytest.fixture
def generate(home, tmp_path, monkeypatch):
    """The job by the options of its command, in a folder of its own; `{}` is the folder of `home`."""
    monkeypatch.chdir(tmp_path)

    def run(base="motion", **options):
        given = {"steps": 2, "frames": FRAMES, "width": SIDE, "height": SIDE, "prompts": ["a red cube"], "seed": "3"}
        if base == "svd":
            given |= {"image": home / "color.png", "prompts": []}
        for name, value in options.items():
            given[name] = [each.replace("{}", str(home)) for each in value] if isinstance(value, list) else value
        return draw(base=str(home / base), device="cpu", **given)

    return run


def own_frames(home, base, scheduler=None, **settings):
    """The frames of diffusers' own call, by the base's scheduler or another of these settings."""
    with quiet():
        kind = {"motion": diffusers.AnimateDiffPipeline, "svd": diffusers.StableVideoDiffusionPipeline}[base]
        pipeline = kind.from_pretrained(home / base)
        if scheduler:
            pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **settings)
        pipeline.set_progress_bar_config(disable=True)
        given = {"prompt": "a red cube", "negative_prompt": ""} if base == "motion" else {
            "image": Image.open(home / "color.png"), "decode_chunk_size": FRAMES,
        }  # fmt: skip
        return pipeline(
            **given, num_frames=FRAMES, height=SIDE, width=SIDE, num_inference_steps=2,
            generator=torch.Generator().manual_seed(3),
        ).frames[0]  # fmt: skip


def pixels(images):
    return np.stack([np.asarray(each.convert("RGB")).astype(int) for each in images])


@pytest.mark.parametrize("base", ["motion", "svd"])
def test_a_fresh_tuner_gives_the_pipelines_frames_and_a_trained_one_moves_each(home, generate, base):
    plain = generate(base, out="plain")
    assert np.array_equal(pixels(plain.images[0].frames), pixels(own_frames(home, base)))
    tuners = [f"{{}}/fresh-{base}.safetensors", f"{{}}/style-{base}.safetensors"]
    fps = {"motion": 5, "svd": 7}[base]  # which SVD's U-Net takes as an input
    fresh = generate(base, conds=["color={}/color"], tuners=tuners, out="clip.webp", score=True, fps=fps).images[0]
    assert np.array_equal(pixels(fresh.frames), pixels(plain.images[0].frames))
    assert [file.name for file in fresh.frame_files] == ["0000.png", "0001.png", "0002.png"]
    with Image.open("clip.webp") as clip:
        assert (clip.n_frames, clip.size) == (FRAMES, (SIDE, SIDE))
        clip.load()
        assert clip.info["duration"] == round(1000 / fps)
    known = settings(fresh.frame_files[0])
    assert (known["frames"], known["fps"], known["seed"], len(known["files"])) == (
        FRAMES, fps, 3, FRAMES + 2 + (base == "svd"),
    )  # fmt: skip
    values = fresh.frame_scores["color"]
    assert len(values) == FRAMES and len(set(values)) > 1
    assert fresh.scores["color"] == pytest.approx(np.mean(values))
    assert fresh.flicker["color"] == pytest.approx(np.abs(np.diff(values)).mean())
    document = fresh.document()
    assert document["frame_scores"] == {"color": values} and len(document["frames"]) == FRAMES
    trained = [f"{{}}/trained-{base}.safetensors"]
    moved = generate(base, conds=["color={}/color"], tuners=trained, out="moved").images[0]
    for_all = generate(base, conds=["color={}/color.png"], tuners=trained, out="for-all").images[0]
    difference = np.abs(pixels(moved.frames) - pixels(plain.images[0].frames)).max(axis=(1, 2, 3))
    assert (difference > 0).all() and not np.array_equal(pixels(moved.frames), pixels(for_all.frames))


def test_a_gif_counts_as_a_folder_and_a_file_makes_its_video_again(home, generate):
    given = {"tuners": ["{}/trained-motion.safetensors"]}
    folder = generate(conds=["color={}/color:0.7:0-0.6"], **given, out="folder", fps=5).images[0]
    again = draw(from_file=folder.path, out="again").images[0]
    assert np.array_equal(pixels(again.frames), pixels(folder.frames))
    faster = draw(from_file=folder.path, out="faster", fps=9).images[0]
    assert [settings(each.frame_files[0])["fps"] for each in (again, faster)] == [5, 9]
    half = generate(conds=["color={}/color:0.7:0-0.5"], **given, seed="3", out="half").images[0]
    whole = generate(conds=["color={}/color:0.7"], **given, out="whole.gif", fps=50).images[0]
    gif = generate(conds=["color={}/color.gif:0.7"], **given, out="gif").images[0]
    assert not np.array_equal(pixels(half.frames), pixels(whole.frames))
    with Image.open("whole.gif") as clip:
        assert (clip.n_frames, clip.info["duration"]) == (FRAMES, 20)
    assert np.abs(pixels(gif.frames) - pixels(whole.frames)).mean() < 3  # the GIF has 256 colours
    with pytest.raises(SceditError, match="whole.gif exists already"):
        generate(conds=["color={}/color"], **given, out="whole.gif")


def test_a_changed_frame_is_told(home, generate, tmp_path):
    shutil.copytree(home / "color", "frames")
    given = {"tuners": ["{}/trained-motion.safetensors"], "out": "clip.webp"}
    made = generate(conds=[f"color={tmp_path}/frames"], **given).images[0]
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "frames" / "frame9.png")
    with pytest.raises(SceditError, match="frame9.png is not the file that it was made with"):
        draw(from_file=made.path, out="again.webp")


def test_overwriting_a_video_replaces_frames_alone(home, generate, tmp_path):
    shutil.copytree(home / "color", "clip-frames")
    given = {"tuners": ["{}/trained-motion.safetensors"], "out": "clip.webp", "overwrite": True}
    before = sorted(file.name for file in (tmp_path / "clip-frames").iterdir())
    with pytest.raises(SceditError, match="clip-frames holds frame.*png, which is no frame"):
        generate(conds=["color={}/color"], **given)
    assert sorted(file.name for file in (tmp_path / "clip-frames").iterdir()) == before
    shutil.rmtree("clip-frames")
    first = pixels(generate(conds=["color={}/color"], **given).images[0].frames)
    with pytest.raises(SceditError, match="clip-frames is read from"):
        generate(conds=[f"color={tmp_path}/clip-frames"], **given)
    again = generate(conds=["color={}/color"], **given, seed="4").images[0]
    assert [file.parent.name for file in again.frame_files] == ["clip-frames"] * FRAMES
    assert not np.array_equal(pixels(again.frames), first)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_template_leaves_folders_that_are_not_its_frames(home, generate, tmp_path, overwrite):
    """Without `overwrite` another video's frames stay too; with it, its input's do, and whatever is no frame."""
    given = {"tuners": ["{}/fresh-motion.safetensors"], "out": "out", "name": "clip", "overwrite": overwrite}
    shutil.copytree(home / "color", "out/clip-frames")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out" / "clip-frames").iterdir()}
    made = generate(conds=["color={}/color"], **given).images[0]
    assert made.path.name == "clip-2.webp" and {file.parent.name for file in made.frame_files} == {"clip-2-frames"}
    assert {file.name: file.read_bytes() for file in (tmp_path / "out" / "clip-frames").iterdir()} == before
    shutil.rmtree("out/clip-frames")
    shutil.move("out/clip-2-frames", "out/clip-frames")
    again = generate(conds=[f"color={tmp_path}/out/clip-frames"], **given).images[0]
    assert again.path.name == "clip-3.webp"


def test_numbers_count_on_from_frames_whose_video_is_gone(home, generate, tmp_path):
    given = {"tuners": ["{}/fresh-motion.safetensors"], "out": "out"}
    first = generate(conds=["color={}/color"], **given).images[0].path
    first.unlink()
    assert generate(conds=["color={}/color"], **given).images[0].path.stem == "0002"


def test_photographs_are_annotated_frame_by_frame_and_sweeps_make_videos(home, generate):
    result = generate(
        conds_from=["color={}/color"], tuners=["{}/trained-motion.safetensors"], sweeps=["color=0,1"], out="swept"
    )
    off, on = (pixels(each.frames) for each in result.images)
    assert np.array_equal(off, pixels(own_frames(home, "motion"))) and not np.array_equal(on, off)
    assert [each.path.name for each in result.images] == ["0001.webp", "0002.webp"]


@pytest.mark.parametrize(
    ("base", "scheduler", "own", "settings_of_own"),
    [
        ("motion", "DPMSolverMultistep:use_karras_sigmas=true", diffusers.DPMSolverMultistepScheduler,
         {"use_karras_sigmas": True}),
        ("svd", "EulerDiscrete:use_karras_sigmas=false", diffusers.EulerDiscreteScheduler,
         {"use_karras_sigmas": False}),
    ],
)  # fmt: skip
def test_a_scheduler_draws_what_it_draws_in_diffusers_pipeline(home, generate, base, scheduler, own, settings_of_own):
    video = generate(base, scheduler=scheduler).images[0]
    expected = pixels(own_frames(home, base, own, **settings_of_own))
    assert np.abs(pixels(video.frames) - expected).max() <= 1  # one level of rounding
    assert np.abs(pixels(own_frames(home, base)) - expected).max() > 1
    assert settings(video.frame_files[0])["scheduler"] == scheduler


@pytest.mark.parametrize("base", ["motion", "svd"])
def test_a_mask_limits_a_condition_in_every_frame(home, generate, base):
    for name, white in {"none": (0, 0), "left": (SIDE // 2, SIDE), "all": (SIDE, SIDE)}.items():
        mask = Image.new("L", (SIDE, SIDE))
        mask.paste(255, (0, 0, *white))
        mask.save(f"{name}.png")
    given = {"conds": ["color={}/color"], "tuners": [f"{{}}/trained-{base}.safetensors"]}
    full = pixels(generate(base, **given, out="full").images[0].frames)
    whole, left, none = (
        pixels(generate(base, **given, masks=[f"color={name}.png"], out=name).images[0].frames)
        for name in ("all", "left", "none")
    )
    without = pixels(own_frames(home, base))
    assert np.array_equal(whole, full) and np.array_equal(none, without)
    for other in (full, without):
        assert (np.abs(left - other).max(axis=(1, 2, 3)) > 0).all()


@pytest.mark.parametrize("base", ["motion", "svd"])
def test_frames_of_another_size_are_resized_one_by_one(home, generate, base, tmp_path):
    files = sorted((home / "color").iterdir(), key=lambda file: int(file.stem.removeprefix("frame")))
    (tmp_path / "big").mkdir()
    big = [Image.open(file).resize((64, 96)) for file in files]
    given = {"tuners": [f"{{}}/trained-{base}.safetensors"]}
    made = []
    for number, frame in enumerate(big):
        frame.save(tmp_path / "big" / f"{number}.png")
    for rule in ("crop", "fit", "stretch"):
        (tmp_path / rule).mkdir()
        for number, frame in enumerate(big):
            resized(frame, (SIDE, SIDE), rule).save(tmp_path / rule / f"{number}.png")
        results = [
            generate(base, conds=[f"color={tmp_path}/{place}"], resize=rule, out=f"{rule}-{n}", **given)
            for n, place in enumerate(("big", rule))
        ]
        here, before = (pixels(each.images[0].frames) for each in results)
        assert np.array_equal(here, before)
        made.append(here)
    assert not any(np.array_equal(one, other) for one, other in combinations(made, 2))
    sides = {"motion": (96, 64), "svd": (SIDE, SIDE)}[base]  # the size of the frames, or of the image to start from
    own = generate(base, conds=[f"color={tmp_path}/big"], width=None, height=None, out="own", **given).images[0]
    assert pixels(own.frames).shape == (FRAMES, *sides, 3)


def test_an_animation_in_memory_is_its_frames(home, tmp_path):
    with Image.open(home / "color.gif") as clip:
        clip.seek(2)
        check_frames(clip, FRAMES, "x")
        for given, own in zip(frames_of(clip, FRAMES), frames_of(home / "color.gif", FRAMES), strict=True):
            assert np.array_equal(given, own)
        assert clip.tell() == 2
        with pytest.raises(SceditError, match=f"the image holds {FRAMES + 1} frames, and the video has 9"):
            check_frames(clip, 9, "x")
    with pytest.raises(SceditError, match="the image is no readable image"):
        frames_of(clip, FRAMES)
    still = Image.open(home / "color.png")
    assert frames_of(still, FRAMES) == [still]
    still.convert("RGB").save(tmp_path / "a.mpo", save_all=True, append_images=[still.convert("RGB")])
    preview = Image.open(tmp_path / "a.mpo")
    assert preview.n_frames == 2 and frames_of(preview, FRAMES) == [preview]
    assert frames_of(tmp_path / "a.mpo", FRAMES) == [tmp_path / "a.mpo"]


def test_in_memory_nothing_is_written(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = load_video_base(home / "motion", device="cpu")
    with Image.open(home / "color.gif") as clip:
        result = job.generate(
            "a red cube", base=base, tuners=[home / "trained-motion.safetensors"], controls=[Control("color", clip)],
            steps=2, sampler=SamplerConfig(frames=FRAMES, width=SIDE, height=SIDE),
        )  # fmt: skip
    assert len(result.images[0].frames) == FRAMES and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reuse": 2}, "--reuse is for images"),
        ({"weighted": True}, "--weighted is for images"),
        ({"grid": True}, "--grid is for images"),
        ({"offload": "models"}, "--offload is for images"),
        ({"unet": "x"}, "--unet is for images"),
        ({"vae": "x"}, "--vae is for images"),
        ({"compile": True}, "--compile is for images"),
        ({"guidance_span": "0-0.5"}, "--guidance-span is for images"),
        ({"control_guidance": 2.0}, "--control-guidance is for images"),
        ({"image": "{}/color.png"}, "makes videos from texts"),
        ({"image": "{}/color.png", "inpaint": "{}/color.png"}, "--inpaint is for images"),
        ({"base": "svd", "image": None}, "makes videos from an image, and none is given"),
        ({"base": "svd", "prompts": ["a cube"]}, "reads no texts"),
        ({"base": "svd", "strength": 0.5}, "--strength is for images"),
        ({"base": "images"}, "a StableDiffusionPipeline, and videos are made with AnimateDiffPipeline and Stable"),
        ({"base": "adapter"}, "adapter: a motion adapter without the base that it moves"),
        ({"frames": None, "fps": 8}, "--fps is of a video"),
        ({"scheduler": "Eulr"}, "scheduler 'Eulr': not known"),
        ({"conds": ["color={}/short"]}, "short holds 2 images, and the video has 3"),
        ({"conds": ["color={}/nowhere"]}, "nowhere does not exist"),
        ({"conds": ["color={}/nowhere.mp4"]}, "nowhere.mp4 does not exist"),
        ({"out": "clip.mp4"}, "names a format that is not written"),
        ({"out": "clip.png"}, "names a format that is not written"),
    ],
)
def test_what_has_no_meaning_is_refused_before_anything_loads(home, generate, tmp_path, options, said, monkeypatch):
    monkeypatch.setattr(job, "load_video_base", None)
    for name in ("image", "inpaint"):
        if options.get(name):
            options = options | {name: home / "color.png"}
    with pytest.raises(SceditError, match=said):
        generate(**options)
    assert not list(tmp_path.iterdir())


def test_a_base_is_joined_with_its_motion_adapter_as_the_hint_says(home, generate, tmp_path):
    with pytest.raises(SceditError) as caught:
        generate("images")
    code = caught.value.hint.partition("a motion adapter, ")[2].partition("diffusers writes it: ")[2]
    names = {"BASE": home / "images", "ADAPTER": home / "adapter", "FOLDER": tmp_path / "joined"}
    classes = {each: getattr(diffusers, each) for each in ("AnimateDiffPipeline", "MotionAdapter")}
    with quiet():
        exec(code, classes | names)
    image, joined = load_base(home / "images"), load_video_base(tmp_path / "joined")
    assert joined.fingerprints[1] == image.fingerprint  # the tuners of the base fit
    assert len(generate(tmp_path / "joined", scheduler="DDIM").images[0].frames) == FRAMES


def test_a_scheduler_of_betas_is_not_for_continuous_noise_levels(generate, tmp_path):
    with pytest.raises(SceditError, match="DDIM is for bases trained on a schedule of betas") as caught:
        generate("svd", scheduler="DDIM", out="out")
    assert caught.value.hint == "choose one of EulerDiscrete" and not list(tmp_path.iterdir())


def test_a_base_for_videos_makes_no_images(generate, tmp_path):
    with pytest.raises(SceditError, match="its AnimateDiffPipeline makes videos") as caught:
        generate(frames=None, out="out")
    assert caught.value.hint == "`scedit generate` takes it, with --frames 16" and not list(tmp_path.iterdir())


def test_a_video_file_gives_its_frames(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    writer = ffmpeg.write_frames(str(tmp_path / "clip.mp4"), (SIDE, SIDE), fps=8)
    writer.send(None)
    for level in (0, 100, 200, 250):
        writer.send(bytes([level]) * (3 * SIDE * SIDE))
    writer.close()
    check_frames(tmp_path / "clip.mp4", 3, "x")
    levels = [np.asarray(each).mean() for each in frames_of(tmp_path / "clip.mp4", 3)]
    assert levels == pytest.approx([0, 100, 200], abs=4)
    with pytest.raises(SceditError, match="holds 4 frames, and the video has 5"):
        frames_of(tmp_path / "clip.mp4", 5)
    (tmp_path / "torn.mp4").write_bytes((tmp_path / "clip.mp4").read_bytes()[:200])
    with pytest.raises(SceditError, match="torn.mp4 is no readable video"):
        frames_of(tmp_path / "torn.mp4", 3)


def test_flicker_is_of_neighbours_alone():
    assert flicker([0.5, 0.5, 0.5]) == 0
    assert flicker([0.0, 0.5, 1.0]) == 0.5
    assert flicker([0.0, 1.0, 0.0]) == 1.0

