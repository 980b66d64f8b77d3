"""The nodes in the real ComfyUI, whose folder SCEDIT_COMFYUI names; left out without it, since PyPI has no ComfyUI.

It needs ComfyUI's requirements (of requirements.txt) beside this package's.
"""

from __future__ import annotations

import importlib
import os
import sys

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor

from scedit_cli import Bundle, CSCTuner, SCTuner, attach
from scedit_cli.exporting.comfyui import node_package
from tests import tiny
from tests.exporting.models import drawn, shades
from tests.exporting.test_comfyui import Nodes, as_image, near

FOLDER = os.environ.get("SCEDIT_COMFYUI")
pytestmark = pytest.mark.skipif(not FOLDER, reason="SCEDIT_COMFYUI names no folder of ComfyUI")
CONTEXT, POOLED = 16, 24


@pytest.fixture(scope="module")
def comfy():
    """ComfyUI's own code, on the CPU."""
    sys.path.insert(0, FOLDER)
    from comfy.cli_args import args

    args.cpu = True
    for name in ("conds", "model_base", "model_patcher", "sample", "samplers", "supported_models", "utils"):
        importlib.import_module(f"comfy.{name}")
    yield sys.modules["comfy"]
    sys.path.remove(FOLDER)


def unet_of(family: str) -> UNet2DConditionModel:
    """32 channels and more, since ComfyUI's norms have 32 groups."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        common = {"sample_size": 8, "norm_num_groups": 32, "layers_per_block": 2, "cross_attention_dim": CONTEXT}
        if family == "sdxl":
            blocks = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
            unet = UNet2DConditionModel(
                **common,
                block_out_channels=(32, 64, 128),
                down_block_types=blocks,
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 1, 2),
                attention_head_dim=(2, 4, 8),
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + POOLED,
            )
        else:
            unet = UNet2DConditionModel(
                **common,
                block_out_channels=(32, 64, 128, 128),
                attention_head_dim=2 if family == "sd15" else (1, 2, 4, 4),
                use_linear_projection=family == "sd21",
            )
    return unet.eval().requires_grad_(False)


def patcher_of(comfy, unet: UNet2DConditionModel, family: str):
    """ComfyUI's model of the same weights."""
    levels = unet.config.block_out_channels
    depth = {"sdxl": [0, 0, 1, 1, 2, 2]}.get(family, [1] * 6 + [0, 0])
    outputs = {"sdxl": [0] * 3 + [1] * 3 + [2] * 3}.get(family, [1] * 9 + [0] * 3)
    config = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "use_checkpoint": False,
        "channel_mult": [width // 32 for width in levels], "num_res_blocks": [2] * len(levels),
        "transformer_depth": depth, "transformer_depth_output": outputs,
        "transformer_depth_middle": 2 if family == "sdxl" else 1, "context_dim": CONTEXT,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": family != "sd15", "legacy": False, "dtype": torch.float32,
        "adm_in_channels": 6 * 8 + POOLED if family == "sdxl" else None,
        "num_classes": "sequential" if family == "sdxl" else None, "use_temporal_attention": False,
    }  # fmt: skip
    # Heads are of one width per level in SDXL and SD2.1, of one number in SD1.5; the tiny U-Nets have 16 or 2.
    config |= (
        {"num_heads": 2, "num_head_channels": -1}
        if family == "sd15"
        else {"num_heads": -1, "num_head_channels": {"sd21": 32, "sdxl": 16}[family]}
    )
    made = comfy.supported_models.SD15(config)
    made.unet_config = config
    model = comfy.model_base.BaseModel(made, comfy.model_base.ModelType.EPS)
    names = comfy.utils.unet_to_diffusers(config)
    weights = unet.state_dict()
    model.diffusion_model.load_state_dict({names[name]: weights[name] for name in weights}, strict=True)
    model.eval()
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, device, device)


def texts(family: str, count: int, seed: int) -> dict:
    given: dict = {"encoder_hidden_states": drawn(count, 7, CONTEXT, seed=seed)}
    if family == "sdxl":
        ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).repeat(count, 1)
        given["added_cond_kwargs"] = {"text_embeds": drawn(count, POOLED, seed=seed + 1), "time_ids": ids}
    return given


def cond(comfy, unet: UNet2DConditionModel, text: dict) -> dict:
    """The same texts in ComfyUI's terms; SDXL's sizes are embedded beside its pooled text."""
    conds = {"c_crossattn": comfy.conds.CONDCrossAttn(text["encoder_hidden_states"])}
    if added := text.get("added_cond_kwargs"):
        ids = unet.add_time_proj(added["time_ids"].flatten()).reshape(len(added["time_ids"]), -1)
        conds["y"] = comfy.conds.CONDRegular(torch.cat([added["text_embeds"], ids], -1))
    return {"model_conds": conds, "uuid": id(conds)}


def denoised(comfy, patcher, conds: list[dict], x: Tensor, sigma: float) -> list[Tensor]:
    """One step in ComfyUI's own order: its batches of prompts, wrappers and options."""
    options = comfy.model_patcher.create_model_options_clone(patcher.model_options)
    comfy.sampler_helpers.prepare_model_patcher(patcher, {}, options)
    patcher.pre_run()
    with torch.inference_mode():
        return comfy.samplers.calc_cond_batch(
            patcher.model, [[c] for c in conds], x, torch.full((len(x),), sigma), options
        )


@pytest.mark.parametrize("size", [(8, 8), (9, 12)], ids=str)
@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_the_real_model_gives_what_attach_gives(comfy, tmp_path, family, size):
    unet, height, width = unet_of(family), 8 * size[0], 8 * size[1]
    tuners = [
        tiny.trained(SCTuner.for_unet(unet), 2, 0.05),
        tiny.trained(CSCTuner.for_unet(unet, "canny", hint_channels=8), 1, 0.05),
        tiny.trained(CSCTuner.for_unet(unet, "depth", hint_channels=8, hint_kernel=3), 3, 0.05),
    ]
    node_package(Bundle(tuners, [1.0, 0.5, 1.0])).write(tmp_path)
    package, bare = Nodes(tmp_path), patcher_of(comfy, unet, family)
    canny, depth, mask = shades(2, 3, height, width), shades(1, 3, height, width, seed=8), shades(1, 1, height, width)
    x, both = drawn(2, 4, *size), [texts(family, 2, 9), texts(family, 2, 20)]
    model = package.apply(bare, "style", 0.8)
    model = package.apply(model, "canny", 0.6, hint=as_image(canny), mask=mask[:, 0])
    model = package.apply(model, "depth", -1.5, hint=as_image(depth))

    sigma = float(bare.model.model_sampling.sigmas[700])
    t = bare.model.model_sampling.timestep(torch.full((2,), sigma)).float()
    conds = [cond(comfy, unet, text) for text in both]
    found, without = denoised(comfy, model, conds, x, sigma), denoised(comfy, bare, conds, x, sigma)
    scaled = bare.model.model_sampling.calculate_input(torch.full((2,), sigma), x)
    for output, plain, text in zip(found, without, both, strict=True):
        with torch.no_grad():
            near(plain, x - sigma * unet(scaled, t, **text).sample, atol=1e-5 * sigma)
            with attach(unet, tuners, [0.8, 0.3, -1.5]) as edits:
                edits.set_hints({"canny": canny, "depth": depth})
                edits.set_regions({"canny": mask})
                expected = unet(scaled, t, **text).sample
        near((x - output) / sigma, expected)
        assert (output - plain).abs().max() > 0.01 * sigma


def test_a_whole_sampling(comfy, tmp_path, monkeypatch):
    """KSampler with guidance, between start and end, beside an untouched branch; a regional prompt; LoadImage."""
    unet = unet_of("sd15")
    tuner = tiny.trained(CSCTuner.for_unet(unet, "canny", hint_channels=8), 1, 0.05)
    (tmp_path / "scedit").mkdir()
    node_package(tuner).write(tmp_path / "scedit")
    package, bare = Nodes(tmp_path / "scedit"), patcher_of(comfy, unet, "sd15")
    import nodes

    picture = (shades(96, 128, 3) * 255).round().to(torch.uint8)
    Image.fromarray(picture.numpy()).save(tmp_path / "canny.png")
    monkeypatch.setattr(nodes.folder_paths, "get_annotated_filepath", lambda name: str(tmp_path / name))
    hint, _ = nodes.LoadImage().load_image("canny.png")
    model = package.apply(bare, "canny", 0.9, 0.2, 0.8, hint=hint)

    positive, negative, noise = drawn(1, 7, CONTEXT), drawn(1, 7, CONTEXT, seed=3), drawn(2, 4, 12, 16)
    area = {"area": (8, 8, 2, 3), "strength": 1.0}
    conds = [[positive, {}], [drawn(1, 7, CONTEXT, seed=4), area]], [[negative, {}]]

    def sampled(patcher):
        with torch.inference_mode():
            return comfy.sample.sample(
                patcher, noise, 6, 4.0, "euler", "normal", *conds, torch.zeros_like(noise), seed=0, disable_pbar=True
            )

    before, found = sampled(bare), sampled(model)
    assert torch.equal(sampled(bare), before) and torch.equal(sampled(model), found)
    assert not model.model_options["transformer_options"]["patches"]["output_block_patch"][0].applied[0]._weights

    # The same sampling, with the U-Net's answer from diffusers and attach.
    sampling, whole = bare.model.model_sampling, picture.permute(2, 0, 1)[None] / 255
    first, last = sampling.percent_to_sigma(0.2), sampling.percent_to_sigma(0.8)

    def answer(apply_model, given):
        x, sigma, c = given["input"], given["timestep"], given["c"]
        cut = whole if x.shape[-1] == 16 else whole[..., 16:80, 24:88]
        active = last <= float(sigma[0]) <= first
        with attach(unet, tuner, [0.9 if active else 0.0]) as edits:
            edits.set_hints([cut])
            eps = unet(sampling.calculate_input(sigma, x), sampling.timestep(sigma).float(), c["c_crossattn"]).sample
        return sampling.calculate_denoised(sigma, eps, x)

    reference = bare.clone()
    reference.set_model_unet_function_wrapper(answer)
    expected = sampled(reference)
    close = 1e-4 * float(expected.abs().max())
    near(found, expected, atol=close)
    assert (found - before).abs().max() > 20 * close


def test_the_sample_workflow_is_of_nodes_that_comfyui_has(comfy, tmp_path):
    import json

    import nodes
    from comfy_extras import nodes_compositing

    unet = unet_of("sd15")
    tuners = [tiny.trained(SCTuner.for_unet(unet)), CSCTuner.for_unet(unet, "inpaint", hint_channels=8, in_channels=4)]
    node_package(Bundle(tuners)).write(tmp_path)
    known = nodes.NODE_CLASS_MAPPINGS | Nodes(tmp_path).package.NODE_CLASS_MAPPINGS
    known["JoinImageWithAlpha"] = nodes_compositing.JoinImageWithAlpha
    for node in json.loads((tmp_path / "example_workflows" / "scedit.json").read_text())["nodes"]:
        kind = known[node["type"]]
        takes = kind.INPUT_TYPES()
        inputs = takes["required"] | takes.get("optional", {})
        for each in node["inputs"]:
            assert inputs[each["name"]][0] == each["type"], node["type"]
        assert [each["type"] for each in node["outputs"]] == list(kind.RETURN_TYPES)
        widgets = [name for name in inputs if name not in {each["name"] for each in node["inputs"]}]
        widgets = [
            name
            for name in widgets
            if not str(inputs[name][0]).isupper() or inputs[name][0] in ("FLOAT", "INT", "STRING")
        ]
        more = sum(
            bool(_told(inputs[name]).get("control_after_generate") or _told(inputs[name]).get("image_upload"))
            for name in widgets
        )
        assert len(node["widgets_values"]) == len(widgets) + more, node["type"]


def _told(kind: tuple) -> dict:
    return kind[1] if len(kind) > 1 else {}
