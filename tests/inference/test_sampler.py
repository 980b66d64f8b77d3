from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from scedit_cli.core.attach import attach
from scedit_cli.core.tuners import CSCTuner, SCTuner
from scedit_cli.inference.denoising import Guidance
from scedit_cli.inference.sampler import grid, sample, to_images, to_tensor
from scedit_cli.models.base import load_base
from scedit_cli.utils.errors import SceditError, WorkFailed
from tests import tiny
from tests.recorder import Recorder, steps_to


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def base(request):
    return load_base(tiny.pipeline_folder(request.param))


@pytest.fixture(scope="module")
def sd15():
    return load_base(tiny.pipeline_folder("sd15"))


def _canny(unet) -> CSCTuner:
    return tiny.trained(CSCTuner.for_unet(unet, condition="canny", hint_channels=16))


def _hints(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def _levels(pictures) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


def _assert_same(one, other) -> None:
    """Convolutions of other batch sizes may sum in another order: a level of 255 at most."""
    assert np.abs(_levels(one) - _levels(other)).max() <= 1


def test_a_seed_means_one_picture_at_any_batch_size(base):
    prompts, seeds = ["a red sphere", "a blue cube", "a cone"], [7, 8, 7]
    together = sample(base, prompts, seeds=seeds, steps=3)
    for size in (1, 2):
        _assert_same(sample(base, prompts, seeds=seeds, steps=3, batch_size=size), together)
    assert np.abs(_levels(together[:1]) - _levels(together[1:2])).max() > 1


def test_pictures_are_the_pipelines_own(base):
    generator = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    options = {"num_inference_steps": 4, "guidance_scale": 4.0, "height": 64, "width": 128}
    expected = base.pipeline()(["a", "b"], negative_prompt=["c"] * 2, generator=generator, **options).images
    got = sample(base, ["a", "b"], seeds=[1, 2], steps=4, guidance=4.0, negative="c", height=64, width=128)
    assert got[0].size == (128, 64)
    _assert_same(got, expected)


def test_ancestral_noise_follows_the_seed_too(sd15):
    options = {"steps": 3, "scheduler": "EulerAncestralDiscreteScheduler"}
    both = sample(sd15, ["a", "a"], seeds=[1, 2], **options)
    _assert_same(both[1:], sample(sd15, ["a"], seeds=[2], **options))


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_each_picture_gets_its_own_hint(sd15, guidance):
    hints = _hints(3)
    options = {"seeds": [1, 1, 1], "steps": 2, "guidance": guidance}
    with attach(sd15.unet, _canny(sd15.unet)) as attachment:
        together = sample(sd15, ["a"] * 3, attachment=attachment, hints={"canny": hints}, **options)
        parts = sample(sd15, ["a"] * 3, attachment=attachment, hints={"canny": hints}, batch_size=2, **options)
        last = {"canny": hints[2:]}
        shared = sample(sd15, ["a"] * 3, attachment=attachment, hints=last, batch_size=2, **options)
    _assert_same(together, parts)
    _assert_same(shared, [together[2]] * 3)
    assert np.abs(_levels(together[:1]) - _levels(together[1:2])).max() > 1


@pytest.mark.parametrize(("control", "share"), [(1.0, 1.0), (2.0, 0.75), (5.0, 0.0)])
def test_hints_are_guided_as_by_hand(sd15, control, share):
    hints = _hints(1)
    with attach(sd15.unet, _canny(sd15.unet), [0.8]) as attachment, torch.no_grad():
        guidance = Guidance(5.0, control=control)
        given = {"attachment": attachment, "hints": {"canny": hints}, "seeds": [1], "steps": 3, "scheduler": "DDIM"}
        found = sample(sd15, ["a"], guidance=guidance, **given)
        pipeline = sd15.pipeline("DDIM")
        pipeline.scheduler.set_timesteps(3)
        prompt, empty = pipeline.encode_prompt("a", "cpu", 1, True)
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        attachment.set_hints(hints)
        for timestep in pipeline.scheduler.timesteps:
            attachment.scales = [0.8 * share]
            without = sd15.unet(latents, timestep, empty).sample
            attachment.scales = [0.8]
            with_ = sd15.unet(latents, timestep, prompt).sample
            guided = without + 5 * (with_ - without)
            latents = pipeline.scheduler.step(guided, timestep, latents).prev_sample
    _assert_same(found, to_images(sd15.decode(latents)))
    assert attachment.unprompted == 1


def test_hints_are_guided_where_the_prompt_is(sd15):
    shares = []
    with attach(sd15.unet, _canny(sd15.unet)) as attachment:
        handle = sd15.unet.register_forward_pre_hook(lambda module, args: shares.append(attachment.unprompted))
        given = {"attachment": attachment, "hints": {"canny": _hints(1)}, "seeds": [1], "steps": 4, "scheduler": "DDIM"}
        sample(sd15, ["a"], guidance=Guidance(3.0, 0, 0.25, 0.75, control=2.0), **given)
        handle.remove()
    assert shares == [1, 0.5, 0.5, 1]


@pytest.mark.parametrize("guidance", [Guidance(2.0, control=2.5), Guidance(2.0, control=0.9), Guidance(1.0, control=1.1)])
def test_hints_guided_more_than_the_prompt_are_refused(sd15, guidance):
    with pytest.raises(SceditError, match=f"control_guidance is {guidance.control}, and the guidance of the prompt"):
        sample(sd15, ["a"], seeds=[1], steps=1, guidance=guidance)


def test_hints_are_encoded_once_per_picture_and_not_once_per_step(sd15):
    tuner = _canny(sd15.unet)
    encoded = []
    tuner.encoder.register_forward_pre_hook(lambda module, args: encoded.append(len(args[0])))
    with attach(sd15.unet, tuner) as attachment:
        hints = {"canny": _hints(3)}
        sample(sd15, ["a"] * 3, attachment=attachment, hints=hints, seeds=[1, 2, 3], steps=4, batch_size=2)
    assert encoded == [1, 1, 1]


def test_a_condition_acts_during_its_span_only(sd15):
    used = []
    tuners = [_canny(sd15.unet), tiny.trained(SCTuner.for_unet(sd15.unet))]
    with attach(sd15.unet, tuners, scales=[0.7, 0.5]) as attachment:
        handle = sd15.unet.register_forward_pre_hook(lambda module, args: used.append(attachment.scales))
        spans = [(0.0, 0.5), (0.25, 1.0)]
        options = {"hints": {"canny": _hints(1)}, "steps": 4, "scheduler": "DDIM", "batch_size": 1}
        sample(sd15, ["a", "a"], attachment=attachment, seeds=[1, 2], spans=spans, **options)
        handle.remove()
        assert used == [(0.7, 0.0), (0.7, 0.5), (0.0, 0.5), (0.0, 0.5)] * 2
        assert attachment.scales == (0.7, 0.5)


@pytest.mark.parametrize("end", [0.3, 0.5, 0.6])
def test_a_span_ends_between_steps_and_not_within_one(sd15, end):
    """Heun's method calls the U-Net twice a step, but for the last."""
    used = []
    with attach(sd15.unet, [_canny(sd15.unet)], scales=[0.7]) as attachment:
        handle = sd15.unet.register_forward_pre_hook(lambda _, args: used.append((attachment.scales[0], len(args[0]))))
        options = {"hints": {"canny": _hints(1)}, "steps": 4, "scheduler": "Heun", "seeds": [1]}
        guidance = Guidance(3.0, end=end)
        sample(sd15, ["a"], attachment=attachment, spans=[(0.0, end)], guidance=guidance, **options)
        handle.remove()
    steps = math.ceil(end * 4)
    assert used == [(0.7, 2)] * 2 * steps + [(0.0, 1)] * (7 - 2 * steps)


def test_no_tuner_is_left_acting_when_sampling_fails(sd15):
    def stop(event):
        raise KeyboardInterrupt

    with attach(sd15.unet, _canny(sd15.unet), scales=[0.7]) as attachment:
        options = {"hints": {"canny": _hints(1)}, "seeds": [1], "steps": 4, "spans": [(0.0, 0.1)]}
        with pytest.raises(KeyboardInterrupt):
            sample(sd15, ["a"], attachment=attachment, reporter=Recorder(stop), **options)
        assert attachment.scales == (0.7,)


def test_arguments_that_would_be_ignored_are_refused(sd15):
    with pytest.raises(ValueError, match="2 prompts for 1 seeds"):
        sample(sd15, ["a", "b"], seeds=[1])
    with pytest.raises(ValueError, match="hints without an attachment"):
        sample(sd15, ["a"], seeds=[1], hints={"canny": _hints(1)})


def test_steps_are_counted_over_all_batches(base):
    steps = []
    sample(base, ["a"] * 3, seeds=[1, 2, 3], steps=3, batch_size=2, reporter=steps_to(steps.append))
    total = steps[-1][1]
    assert steps == [(n, total) for n in range(1, total + 1)]
    assert total >= 6


def test_sampling_says_nothing(sd15, capfd):
    capfd.readouterr()
    sample(sd15, ["x " * 200], seeds=[1], steps=2)
    assert capfd.readouterr() == ("", "")


def test_weights_that_overflow_are_told():
    base = load_base(tiny.pipeline_folder("sd15"))
    base.unet.conv_out.weight.data.fill_(float("inf"))
    with pytest.raises(WorkFailed, match="the sampled latents hold values that are not numbers"):
        sample(base, ["a"], seeds=[1], steps=2)


@pytest.mark.parametrize(("height", "width"), [(64, 100), (96, 64), (8, 64)])
def test_sides_that_the_unet_cannot_halve(sd15, height, width):
    with pytest.raises(SceditError, match=f"{width}x{height} pixels; .* multiples of 64") as error:
        sample(sd15, ["a"], seeds=[1], steps=1, height=height, width=width)
    assert "is nearest" in error.value.hint


def test_pictures_and_tensors_are_inverses():
    levels = torch.arange(2 * 3 * 8 * 16, dtype=torch.float32).remainder(256).reshape(2, 3, 8, 16)
    pictures = to_images(levels / 255)
    assert pictures[0].size == (16, 8)
    assert torch.equal(to_tensor(pictures) * 255, levels)


RED, BLUE = (200, 10, 10), (10, 10, 200)


def _tiles(colour, count: int, size: int = 128) -> list[Image.Image]:
    return [Image.new("RGB", (size, size), colour) for _ in range(count)]


def _ink(sheet: Image.Image, box) -> int:
    return int((np.asarray(sheet.crop(box)).min(axis=-1) < 128).sum())


def test_a_grid_shows_small_pictures_twice_as_large():
    sheet = grid([_tiles(RED, 2), [None, *_tiles(BLUE, 1)]])
    pixels = np.asarray(sheet).reshape(-1, 3)
    assert sheet.size == (8 + 2 * 264, 8 + 2 * 264)
    assert (pixels == RED).all(-1).sum() == 2 * 256**2
    assert (pixels == BLUE).all(-1).sum() == 256**2
    assert _ink(sheet, (8, 272, 264, 528)) == 0  # the empty cell


def test_a_grid_has_headings_and_labels_that_stay_in_their_place():
    label = "a red sphere and a blue cube to the left of a yellow cylinder on a checkered gray floor"
    plain = grid([_tiles(RED, 2)])
    sheet = grid([_tiles(RED, 2)], ["condition", "with the tuner"], [label])
    left, top = sheet.width - plain.width, sheet.height - plain.height
    pictures = plain.crop((8, 8, *plain.size))
    assert np.array_equal(np.asarray(sheet.crop((left + 8, top + 8, *sheet.size))), np.asarray(pictures))
    for column in range(2):
        x = left + 8 + column * 264
        assert _ink(sheet, (x, 0, x + 256, top + 8)) > 100
    assert _ink(sheet, (0, top, left, sheet.height)) > 100
    assert _ink(sheet, (left, top, left + 8, sheet.height)) == 0
    assert _ink(sheet, (0, 0, left, top)) == 0


def test_large_pictures_are_shown_as_they_are():
    noise = np.random.default_rng(0).integers(0, 256, (320, 300, 3), dtype=np.uint8)
    sheet = grid([[Image.fromarray(noise)]])
    assert np.array_equal(np.asarray(sheet.crop((8, 8, 308, 328))), noise)
