"""Every class of diffusers that has skips trains with tuners on them, or is refused in a true sentence."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import Tensor, nn

from scedit_cli import CSCTuner, SceditError, SCTuner, attach, load_tuner, save_tuner
from scedit_cli.core.skips import edit_skips, survey
from tests import tiny
from tests.core import skip_models
from tests.core.skip_models import FRAMES, TRAINED, Kind, draw, made, run
from tests.core.test_attach import bits, hooks

HINT = "canny"


def tuners(model: nn.Module) -> list[SCTuner | CSCTuner]:
    return [SCTuner.for_unet(model), CSCTuner.for_unet(model, HINT, hint_channels=4, hint_width=0.25)]


def hint(kind: Kind, batch: int = 2, frames: int | None = None) -> Tensor:
    sides = [8 * side for side in kind.shape[-2:]]
    shape = (batch, 3, *([frames] if frames else []), *sides)
    return torch.rand(shape, generator=torch.Generator().manual_seed(4))


@pytest.fixture(params=TRAINED)
def kind(request) -> Kind:
    return TRAINED[request.param]


def gradients(kind: Kind, model: nn.Module, memory: str) -> dict[str, Tensor]:
    trained = [tiny.trained(tuner, seed=2, size=0.1) for tuner in tuners(model)]
    with attach(model, trained, [0.5, 0.5], memory=memory, recompute="fine") as edits:
        edits.set_hints({HINT: hint(kind)})
        output = run(kind, model)
        (output * draw(*output.shape)).sum().backward()
    return {f"{i}.{name}": p.grad for i, tuner in enumerate(trained) for name, p in tuner.named_parameters()}


def test_a_fresh_tuner_is_the_identity_and_an_edited_one_moves_the_output(kind):
    model = made(kind)
    had, before = hooks(model), run(kind, model)
    fresh, edited = tuners(model), [tiny.trained(tuner, size=0.1) for tuner in tuners(model)]
    with attach(model, fresh, [1.0, -2.5]) as edits:
        edits.set_hints({HINT: hint(kind)})
        assert torch.equal(bits(run(kind, model)), bits(before))
    outputs = []
    for tuner in edited:
        with attach(model, tuner) as edits, torch.no_grad():
            edits.set_hints({HINT: hint(kind)} if tuner.condition else None)
            outputs.append(run(kind, model))
    assert all((output - before).abs().max() > 1e-3 for output in outputs)
    assert torch.equal(bits(run(kind, model)), bits(before)) and hooks(model) == had


def test_every_parameter_has_a_gradient_and_no_memory_mode_changes_it(kind):
    model = made(kind)
    plain = gradients(kind, model, "plain")
    assert all(grad is not None and grad.any() for grad in plain.values())
    assert all(parameter.grad is None for parameter in model.parameters())
    for memory in ("lean", "checkpoint"):
        other = gradients(kind, model, memory)
        for name, value in plain.items():
            assert (other[name] - value).norm() <= 1e-4 * value.norm(), (memory, name)


def test_nothing_in_the_encoder_is_differentiated(kind):
    model = made(kind)
    skips, seen, asking = survey(model), {}, []

    def see(skip: Tensor, index: int) -> Tensor:
        seen.setdefault(index, tuple(skip.shape))
        return skip

    handles = edit_skips(model, skips, see)
    for site in skips.sites:
        layer = model.get_submodule(site.leaves)
        layers = layer if isinstance(layer, nn.ModuleList) else [layer]
        handles += [each.register_forward_hook(lambda *given: asking.append(given[2].requires_grad)) for each in layers]
    with attach(model, tiny.trained(SCTuner.for_unet(model), size=0.1)):
        assert run(kind, model).requires_grad
    for handle in handles:
        handle.remove()
    height, width = kind.shape[-2:]
    images = 2 * (1 if kind.frames_axis is None else FRAMES)
    expected = [(images, site.channels, height // site.stride, width // site.stride) for site in skips.sites]
    assert [seen[i] for i in sorted(seen)] == expected and skips.frames_axis == kind.frames_axis
    assert asking and not any(asking)


def test_files_come_back(kind, tmp_path):
    model = made(kind)
    tuner = tiny.trained(tuners(model)[1], size=0.1)
    loaded = load_tuner(save_tuner(tuner, tmp_path / "a.safetensors"))
    outputs = []
    for each in (tuner, loaded):
        with attach(model, each) as edits, torch.no_grad():
            edits.set_hints(hint(kind))
            outputs.append(run(kind, model))
    assert torch.equal(*outputs) and loaded.up_blocks == survey(model).up_blocks


@pytest.mark.parametrize("name", ["UNetMotion", "UNet3D", "I2VGenXL", "SVD"])
@torch.no_grad()
def test_a_hint_for_all_frames_is_that_hint_for_each_frame(name):
    kind = TRAINED[name]
    model = made(kind)
    one, each = hint(kind), hint(kind, frames=FRAMES)
    with attach(model, tiny.trained(tuners(model)[1], size=0.3)) as edits:
        edits.set_hints(one)
        same = run(kind, model)
        edits.set_hints(one[:, :, None].expand(-1, -1, FRAMES, -1, -1))
        torch.testing.assert_close(run(kind, model), same)
        edits.set_hints(each)
        unlike = run(kind, model)
        assert not torch.allclose(unlike, same, atol=1e-3)
        edits.set_hints(each[:1])  # classifier-free guidance repeats the hints as a whole
        edits.set_regions([torch.ones(2, 1, 8, 8)])
        repeated = run(kind, model)
        edits.set_hints(torch.cat([each[:1], each[:1]]))
        assert torch.equal(run(kind, model), repeated)
        with pytest.raises(SceditError, match="canny hint has 2 frames, the video 3"):
            edits.set_hints(each[:, :, :2])
            run(kind, model)


@torch.no_grad()
def test_hints_and_regions_reach_their_own_video():
    kind = TRAINED["UNetMotion"]
    model = made(kind)
    before, two = run(kind, model), hint(kind)
    with attach(model, tiny.trained(tuners(model)[1], size=0.3)) as edits:
        edits.set_hints(two)
        both = run(kind, model)
        edits.set_hints(two.flip(0))
        swapped = run(kind, model)
        edits.set_hints(torch.stack([two[0], two[0]]))
        first = run(kind, model)
        torch.testing.assert_close(first[0], both[0])
        torch.testing.assert_close(first[1], swapped[1])
        edits.set_regions([torch.stack([torch.ones(1, 8, 8), torch.zeros(1, 8, 8)])])
        limited = run(kind, model)
    torch.testing.assert_close(limited[0], first[0])
    assert torch.equal(limited[1], before[1]) and not torch.allclose(first[1], before[1], atol=1e-3)


@torch.no_grad()
def test_an_image_tuner_acts_on_the_motion_unet_of_its_base():
    image = TRAINED["UNet2DCondition"]
    base = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    tuner = tiny.trained(tuners(base)[1], size=0.1)
    adapter = diffusers.MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=2, motion_norm_num_groups=4, use_motion_mid_block=False,
    )  # fmt: skip
    motion = diffusers.UNetMotionModel.from_unet2d(base, adapter)
    for name, parameter in motion.named_parameters():
        if "motion_modules" in name and "proj_out" in name:
            parameter.zero_()  # a motion module that adds nothing, so that a frame is the image
    with attach(base, tuner) as edits:
        edits.set_hints(hint(image))
        expected = run(image, base)
    with attach(motion, tuner) as edits:
        edits.set_hints(hint(image))
        still = skip_models.motion_call(motion, draw(*image.shape, seed=7)[:, :, None])[0]  # one frame
    torch.testing.assert_close(still[:, :, 0], expected)


@torch.no_grad()
def test_odd_sides_are_rounded_as_the_unet_rounds_them():
    kind = TRAINED["StableCascade C"]
    model = made(kind)
    sample = draw(2, 4, 9, 11, seed=7)
    before = kind.call(model, sample)[0]
    with attach(model, tuners(model)[1]) as edits:
        edits.set_hints(torch.rand(2, 3, 72, 88))
        assert torch.equal(kind.call(model, sample)[0], before)


def k_upscaler() -> nn.Module:
    return diffusers.UNet2DConditionModel(
        block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=8, attention_head_dim=8, mid_block_type=None,
        down_block_types=("KDownBlock2D", "KCrossAttnDownBlock2D"), norm_num_groups=None, time_embedding_dim=32,
        up_block_types=("KCrossAttnUpBlock2D", "KUpBlock2D"), time_embedding_type="fourier", conv_in_kernel=1,
    )  # fmt: skip


def controlnet_xs() -> nn.Module:
    torch.manual_seed(0)
    unet = tiny.unet("sd15")
    adapter = diffusers.ControlNetXSAdapter.from_unet(unet, size_ratio=1.0)
    return diffusers.UNetControlNetXSModel.from_unet(unet, adapter)


def unidiffuser() -> nn.Module:
    from diffusers.pipelines.deprecated.unidiffuser.modeling_uvit import UniDiffuserModel

    return UniDiffuserModel(
        text_dim=8, clip_img_dim=8, num_text_tokens=4, num_attention_heads=2, attention_head_dim=4, in_channels=4,
        out_channels=4, num_layers=2, norm_num_groups=4, sample_size=8, patch_size=2, activation_fn="gelu",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (k_upscaler, "UNet2DConditionModel has K-blocks, which drop all skips but their level's last"),
        (lambda: diffusers.UNet1DModel(sample_size=32), "the skips of UNet1DModel are sequences"),
        (controlnet_xs, "UNetControlNetXSModel gives its decoder skips of its control network beside its own"),
        (unidiffuser, "the skips of UniDiffuserModel hold the tokens of texts beside those of the image"),
        (lambda: nn.Linear(2, 2), "no skip connections are found in Linear"),
    ],
)
def test_refusals(make, reason):
    with pytest.raises(SceditError, match=reason):
        survey(make())
