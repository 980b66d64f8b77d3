from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from scedit_cli.inference.denoising import Denoiser, Guidance, Start, _for_task, rescaled
from scedit_cli.inference.sampler import sample
from scedit_cli.models.base import load_base
from scedit_cli.models.inpainting import complete_inputs
from scedit_cli.models.loading import quiet
from scedit_cli.models.schedulers import scheduler_like
from scedit_cli.utils.errors import SceditError
from tests import tiny


@pytest.fixture(scope="module")
def sd15():
    return load_base(tiny.pipeline_folder("sd15"))


@pytest.fixture(scope="module")
def sdxl():
    return load_base(tiny.pipeline_folder("sdxl"))


@pytest.fixture(scope="module")
def picture():
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5)).mul(255).round() / 255


def _levels(pictures) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


def _far(one, other) -> int:
    return int(np.abs(_levels(one) - _levels(other)).max())


def _unet_calls(base) -> tuple[list[int], object]:
    """The batch of every U-Net call from now on, and the hook's handle."""
    sizes: list[int] = []
    return sizes, base.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize(("start", "end", "calls"), [(0, 0.5, [4, 4, 2, 2]), (0.25, 0.75, [2, 4, 4, 2])])
def test_guidance_acts_within_its_interval_and_costs_nothing_outside(request, family, start, end, calls):
    base = request.getfixturevalue(family)
    options = {"seeds": [1, 2], "steps": 4, "scheduler": "DDIM", "negative": "fog"}
    sizes, handle = _unet_calls(base)
    within = sample(base, ["a", "b"], guidance=Guidance(6.0, 0, start, end), **options)
    handle.remove()
    assert sizes == calls
    assert _far(within, sample(base, ["a", "b"], guidance=6.0, **options)) > 1
    assert _far(within, sample(base, ["a", "b"], guidance=1.0, **options)) > 1
    # By hand: the same steps, with both halves of the batch and the weight chosen at every step.
    pipeline = base.pipeline("DDIM")

    def steer(pipeline, step, timestep, tensors):
        pipeline._guidance_scale = 6.0 if start <= (step + 1) / 4 < end else 1.0 + 1e-6
        return {}

    first = 6.0 if start == 0 else 1.0 + 1e-6
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    with quiet():
        expected = pipeline(
            ["a", "b"], negative_prompt=["fog"] * 2, generator=generators, num_inference_steps=4, height=64, width=64,
            guidance_scale=first, callback_on_step_end=steer,
        ).images  # fmt: skip
    assert _far(within, expected) <= 1


@pytest.mark.parametrize("masked", [False, True])
def test_guidance_is_rescaled_from_a_picture_too(sd15, picture, masked):
    redraw = (torch.arange(64) < 32).float().expand(1, 1, 64, 64) if masked else None
    options = {"seeds": [1], "steps": 4, "start": Start(picture, 0.8, redraw)}
    plain, rescaled_ = (sample(sd15, ["a"], guidance=Guidance(40.0, share), **options) for share in (0.0, 1.0))
    assert _far(plain, rescaled_) > 2 and not sd15.unet._forward_hooks
    unguided = sample(sd15, ["a"], guidance=Guidance(1.0, 0.7), **options)
    assert _far(unguided, sample(sd15, ["a"], guidance=1.0, **options)) == 0
    late = sample(sd15, ["a"], guidance=Guidance(6.0, 0.7, start=0.5), **options)
    assert _far(late, unguided) > 1 and _far(late, rescaled_) > 1


def test_rescaling_is_that_of_the_pipelines_that_have_it(sdxl, picture):
    """The SDXL pipeline that starts from a picture can do it itself."""
    pipeline = _for_task(sdxl, sdxl.pipeline(), Start(picture, 0.8))

    def latents(**more):
        draw = torch.Generator().manual_seed(1)
        with quiet():
            return pipeline(
                "a", image=picture, strength=0.8, num_inference_steps=4, guidance_scale=6.0, generator=draw,
                output_type="latent", **more,
            ).images  # fmt: skip

    with rescaled(pipeline, 0.7):
        ours = latents()
    assert torch.equal(ours, latents(guidance_rescale=0.7)) and not torch.equal(ours, latents())


def test_rescaled_guidance_is_the_pipelines(sd15):
    options = {"num_inference_steps": 3, "guidance_scale": 40.0, "guidance_rescale": 1.0, "height": 64, "width": 64}
    with quiet():
        expected = sd15.pipeline()("a", generator=torch.Generator().manual_seed(1), **options).images
    assert _far(sample(sd15, ["a"], seeds=[1], steps=3, guidance=Guidance(40.0, rescale=1.0)), expected) <= 1
    assert _far(sample(sd15, ["a"], seeds=[1], steps=3, guidance=40.0), expected) > 2


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_image_to_image_is_the_pipelines(request, family, picture):
    import diffusers

    base = request.getfixturevalue(family)
    kind = diffusers.StableDiffusionXLImg2ImgPipeline if family == "sdxl" else diffusers.StableDiffusionImg2ImgPipeline
    with quiet():
        pipeline = kind.from_pipe(base.pipeline())
        latents = base.latents_from(base.encode_images(picture)).expand(2, -1, -1, -1)
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        expected = pipeline(
            ["a", "b"], image=latents, strength=0.5, num_inference_steps=4, guidance_scale=3.0, generator=generators
        ).images
    start = Start(picture, 0.5)
    got = sample(base, ["a", "b"], seeds=[1, 2], steps=4, guidance=3.0, start=start)
    assert _far(got, expected) <= 1
    assert _far(got[1:], sample(base, ["b"], seeds=[2], steps=4, guidance=3.0, start=start)) <= 1
    weak = sample(base, ["a"], seeds=[1], steps=10, start=Start(picture, 0.1))
    strong = sample(base, ["a"], seeds=[1], steps=10, start=Start(picture, 1.0))
    through = base.decode(base.latents_from(base.encode_images(picture)))
    off = [np.abs(_levels(drawn) - through.permute(0, 2, 3, 1).numpy() * 255).mean() for drawn in (weak, strong)]
    assert off[0] < off[1]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_inpainting_keeps_what_lies_outside_the_mask(request, family, picture):
    base = request.getfixturevalue(family)
    redraw = torch.zeros(1, 1, 64, 64)
    redraw[..., 20:44, 33:61] = 1
    redraw[..., 10, 10] = 1  # a single pixel is not lost between latents
    options = {"steps": 4, "guidance": Guidance(5.0, 0, 0.25, 0.75)}
    drawn = sample(base, ["a", "b"], seeds=[1, 2], start=Start(picture, 1.0, redraw), **options)
    kept = redraw[0, 0].numpy() == 0
    given = np.round(picture[0].permute(1, 2, 0).numpy() * 255)
    assert np.array_equal(_levels(drawn)[:, kept], np.stack([given[kept]] * 2))
    changed = np.abs(_levels(drawn)[0] - given).max(-1) > 0
    assert changed[20:44, 33:61].mean() > 0.9 and changed[10, 10]
    assert _far(drawn[1:], sample(base, ["b"], seeds=[2], start=Start(picture, 1.0, redraw), **options)) <= 1


def test_an_inpainting_unet_sees_the_mask_and_the_rest_of_the_picture(picture):
    base = load_base(tiny.pipeline_folder("sd15"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wide = torch.nn.Conv2d(9, 8, 3, padding=1)
    base.unet.conv_in = wide.requires_grad_(False)
    base.unet.register_to_config(in_channels=9)
    complete_inputs(base._loaded)
    redraw = torch.zeros(1, 1, 64, 64)
    redraw[..., :32] = 1
    seen = []
    handle = base.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    drawn = sample(base, ["a"], seeds=[1], steps=2, guidance=3.0, start=Start(picture, 1.0, redraw))
    handle.remove()
    mask, rest = seen[0][0, 4], seen[0][0, 5:]
    assert torch.equal(mask, (torch.arange(8) < 4).float().expand(8, 8))
    gray = torch.where(redraw > 0.5, 0.5, picture)
    torch.testing.assert_close(rest, base.latents_from(base.encode_images(gray))[0])
    assert np.array_equal(_levels(drawn)[0][:, 32:], np.round(picture[0].permute(1, 2, 0).numpy() * 255)[:, 32:])
    whole = sample(base, ["a"], seeds=[1], steps=2, start=Start(picture, 0.5))  # all of it is drawn anew
    assert _far(whole, sample(base, ["a"], seeds=[1], steps=2)) > 1


def test_what_a_base_cannot_do_is_told(sd15, picture):
    with pytest.raises(SceditError, match="strength 0.1 of 4 steps is no step at all"):
        sample(sd15, ["a"], seeds=[1], steps=4, start=Start(picture, 0.1))


def test_a_distillate_takes_guidance_as_an_input_and_needs_no_second_half():
    base = load_base(tiny.pipeline_folder("sd15"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base.unet.time_embedding.cond_proj = torch.nn.Linear(32, 8, bias=False).requires_grad_(False)
    base.unet.register_to_config(time_cond_proj_dim=32)
    sizes, handle = _unet_calls(base)
    options = {"seeds": [1, 2], "steps": 2, "scheduler": "LCM"}
    weak, strong = (sample(base, ["a", "a"], guidance=scale, **options) for scale in (2.0, 9.0))
    handle.remove()
    assert sizes == [2] * 4 and _far(weak, strong) > 1
    with pytest.raises(SceditError, match="has guidance built in"):
        sample(base, ["a"], seeds=[1], guidance=Guidance(8.0, 0, 0, 0.5))


def test_a_schedulers_settings_arrive(sd15):
    made = scheduler_like(sd15.scheduler, "DPMSolverMultistep:use_karras_sigmas=true,algorithm_type=sde-dpmsolver++")
    assert made.config.use_karras_sigmas is True and made.config.algorithm_type == "sde-dpmsolver++"
    assert made.config.beta_end == sd15.scheduler.config.beta_end
    assert scheduler_like(sd15.scheduler, "DDIM").config.clip_sample is False
    assert scheduler_like(sd15.scheduler, "DDIM:clip_sample=true").config.clip_sample is True


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("Eular", "scheduler 'Eular': not known", "choose one of"),
        ("EulerDiscreet", "not known", "did you mean EulerDiscrete?"),
        ("DDIM:clip_samples=true", "'clip_samples=true' is no setting of it", "did you mean clip_sample?"),
        ("DDIM:beta_schedule=odd", "odd", "documentation"),
    ],
)
def test_schedulers_that_are_none(sd15, text, message, hint):
    with pytest.raises(SceditError) as error:
        scheduler_like(sd15.scheduler, text)
    assert message in error.value.message and hint in error.value.hint


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_weighted_and_long_prompts(request, family):
    pytest.importorskip("compel", reason="the extra 'prompts' is not installed")
    base = request.getfixturevalue(family)
    prompts = ["a cat", "a (cat)1.8", "a cat", "cat " * 120]
    together = sample(base, prompts, seeds=[1] * 4, steps=2, weighted=True)
    assert _far(together[:1], together[1:2]) > 1
    for number in (0, 3):  # whatever else is in the batch
        alone = sample(base, prompts[number : number + 1], seeds=[1], steps=2, weighted=True)
        assert _far(alone, together[number : number + 1]) <= 1
    with quiet():
        whole, cut = (Denoiser(base).encode(prompts[3], "", weighted)["prompt_embeds"] for weighted in (True, False))
    assert (whole.shape[1], cut.shape[1]) == (77 * 5, 77)  # 360 letters, 75 at a time


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize(
    ("weighted", "plain"),
    [
        ("a red cube", "a red cube"),
        ("a (red)1.0 cube", "a red cube"),
        ("a (red cube)1", "a red cube"),
        ("a ((red)0.5)2 cube", "a red cube"),
        (r"a \(red\) cube", "a (red) cube"),
        ("", ""),
    ],
)
def test_weights_of_1_change_nothing(family, weighted, plain):
    pytest.importorskip("compel", reason="the extra 'prompts' is not installed")
    denoiser = Denoiser(load_base(tiny.pipeline_folder(family)))
    with quiet():
        for negative in (("", ""), (weighted, plain)):
            ours = denoiser.encode(weighted, negative[0], weighted=True)
            theirs = denoiser.encode(plain, negative[1])
            for name, each in ours.items():
                torch.testing.assert_close(each, theirs[name], msg=name)


def test_a_pooled_embedding_is_that_of_the_words(sdxl):
    pytest.importorskip("compel", reason="the extra 'prompts' is not installed")
    denoiser = Denoiser(sdxl)

    def pooled(prompt: str, weighted: bool = False) -> torch.Tensor:
        with quiet():
            return denoiser.encode("fog", prompt, weighted)["negative_pooled_prompt_embeds"]

    cat, dog, long = pooled("a cat"), pooled("a dog"), "cat " * 120
    assert torch.equal(pooled("(a cat)1.7", True), cat)
    assert torch.equal(pooled(f"{long}(dog)1.5", True), pooled(f"{long}dog"))
    for text, share in {
        '("a cat", "a dog").blend(3, 1)': 0.75,
        '("a cat", "a (dog)1.4").and()': 0.5,
        '("a cat", "a dog").and(1, 3)': 0.25,
    }.items():
        torch.testing.assert_close(pooled(text, True), share * cat + (1 - share) * dog)
    torch.testing.assert_close(pooled('("a cat", "a dog").blend(1, -1, no_normalize)', True), cat - dog)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a (cat).swap(dog)", "swap() is not supported"),
        ("a cat withLora(x, 0.5)", "withLora() is not supported"),
        ('("a", "b").blend(1, -1)', "its weights add up to 0"),
        ('("a", "b").and(1, -1)', "its weights add up to 0"),
        ('("a", "b").blend(1)', "not in compel's syntax"),
        ("()", "it has no words"),
    ],
)
def test_weighted_prompts_that_cannot_be(sd15, prompt, message):
    pytest.importorskip("compel", reason="the extra 'prompts' is not installed")
    for texts in ((prompt, ""), ("a", prompt)):
        with pytest.raises(SceditError) as error:
            Denoiser(sd15).encode(*texts, weighted=True)
        assert message in error.value.message and repr(prompt) in error.value.message


def test_offloading_is_asked_of_diffusers(sd15, monkeypatch):
    """The movement itself needs an accelerator."""
    asked = []
    monkeypatch.setattr(DiffusionPipeline, "enable_model_cpu_offload", lambda self, device: asked.append(device))
    sample(sd15, ["a"], seeds=[1], steps=1, offload="cuda")
    assert asked == ["cuda"]
