"""DreamLite as a base: a tiny random one of its own classes is loaded, trained on, resumed and drawn from."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from scedit_cli import Control, CSCTuner, SCTuner, attach, generate, load_base
from scedit_cli.benchmark.architecture import architecture
from scedit_cli.benchmark.estimate import estimate
from scedit_cli.benchmark.methods import Options
from scedit_cli.benchmark.step import random_batch
from scedit_cli.data.cache import cache_latents_and_text
from scedit_cli.data.dataset import open_dataset
from scedit_cli.data.scenes import write_scenes
from scedit_cli.exporting.graph_files import UNetGraph
from scedit_cli.generation.config import BaseConfig, InitImage, Prompt
from scedit_cli.inference.config import SamplerConfig
from scedit_cli.inference.denoising import Denoiser, Guidance
from scedit_cli.inference.sampler import to_tensor
from scedit_cli.jobs import train as job
from scedit_cli.models.loading import quiet
from scedit_cli.recipe import Recipe, TrainSection
from scedit_cli.training.objective import Objective
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.reporter import SILENT
from tests import tiny
from tests.core.skip_models import draw
from tests.jobs.train.conftest import assert_same_end
from tests.recorder import Progress, Recorder

SIDE = 64
TIED = {"tie_word_embeddings": True}  # files then lack a weight that is not missing


def tokenizer() -> Qwen2Tokenizer:
    """Single bytes: a prompt template of some hundred tokens, of which all but the last are the pipeline's to drop."""
    words = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = Qwen2Tokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    made.add_special_tokens({"additional_special_tokens": words[-2:]})
    return made


def pipeline(kind: type = diffusers.DreamLitePipeline, **scheduler) -> diffusers.DreamLitePipeline:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2], "mrope_interleaved": True}
    text = {
        "vocab_size": len(tokenizer()), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "rope_parameters": rope,
        "max_position_embeddings": 512,
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **TIED)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        return kind(
            text_encoder=Qwen3VLForConditionalGeneration(config).eval(),
            tokenizer=tokenizer(),
            processor=None,
            vae=diffusers.AutoencoderTiny(
                encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, num_encoder_blocks=(1,) * 4,
                num_decoder_blocks=(1,) * 4,
            ),
            unet=diffusers.DreamLiteUNetModel(
                sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
                cross_attention_dim=8, encoder_hid_dim=16, encoder_hid_dim_type="text_proj_rms",
                addition_embed_type="time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=8,
                down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
                up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**(scheduler or {"use_dynamic_shifting": True})),
        )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "dreamlite"
    pipeline().save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["processor"] = ["transformers", "Qwen3VLProcessor"]  # of images to edit, which no base reads
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def shown(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def pattern(seed: int = 0, width: int = SIDE) -> torch.Tensor:
    return torch.rand(3, SIDE, width, generator=torch.Generator().manual_seed(seed)).round()


@pytest.mark.parametrize("kind", [diffusers.DreamLitePipeline, diffusers.DreamLiteMobilePipeline])
@pytest.mark.parametrize("scheduler", [{"use_dynamic_shifting": True}, {"shift": 3.0}], ids=["by size", "shift"])
def test_fresh_tuners_draw_the_images_of_the_pipeline_bit_for_bit(kind, scheduler, tmp_path):
    pipeline(kind, **scheduler).save_pretrained(tmp_path)
    with quiet():
        own = kind.from_pretrained(tmp_path, processor=None)
    given = {"negative_prompt": "a blue cone"} if kind is diffusers.DreamLitePipeline else {}
    given |= {"guidance_scale": 2.5} if given else {}
    drawn = own(
        "a red cube", height=SIDE, width=96, num_inference_steps=3, generator=torch.Generator().manual_seed(5), **given
    )
    base = load_base(tmp_path)
    tuners = [SCTuner.for_unet(base.unet), CSCTuner.for_unet(base.unet, "canny", hint_channels=4, hint_width=0.25)]
    result = generate(
        [Prompt("a red cube", given.get("negative_prompt", ""))], base=base, tuners=tuners, seeds=5, steps=3,
        controls=[Control("canny", image=pattern(width=96))], guidance=given.get("guidance_scale"),
        sampler=SamplerConfig(width=96, height=SIDE),
    )  # fmt: skip
    assert np.array_equal(shown(result.images[0].image), shown(drawn.images[0])) and shown(drawn.images[0]).std() > 1
    assert base.defaults.steps == inspect.signature(own.__call__).parameters["num_inference_steps"].default


def test_guidance_can_begin_between_steps(folder):
    """The masks of the prompts, of other lengths, follow the switch."""
    with quiet():
        own = diffusers.DreamLitePipeline.from_pretrained(folder, processor=None)
    scales = iter([1.0, 1.0, 60.0, 60.0])
    own.__class__ = type("Switched", (type(own),), {"guidance_scale": property(lambda self: next(scales))})
    texts = "a cube", "a cone, a large one"
    drawn = own(
        *texts, height=SIDE, width=SIDE, num_inference_steps=4, output_type="latent",
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    denoiser = Denoiser(load_base(folder))

    def latents(guidance: Guidance) -> torch.Tensor:
        given = {"steps": 4, "height": SIDE, "width": SIDE, "before_step": lambda share: None, "reporter": SILENT}
        draws = [torch.Generator().manual_seed(1)]
        return denoiser.latents(denoiser.encode(*texts), draws, guidance=guidance, **given)

    torch.testing.assert_close(latents(Guidance(60.0, start=0.5)), drawn.images, atol=1e-3, rtol=0)
    assert (latents(Guidance(60.0)) - drawn.images).abs().max() > 1e-2


def test_a_hint_acts_in_the_left_image_alone(folder):
    """In diffusers' own pipeline too, whose U-Net is called with two images side by side."""
    with quiet():
        unet = diffusers.DreamLitePipeline.from_pretrained(folder, processor=None).unet
    tuner = tiny.trained(CSCTuner.for_unet(unet, "canny", hint_channels=4, hint_width=0.25), size=0.1)
    latents, skips = draw(1, 4, 8, 16), []
    given = {"encoder_hidden_states": draw(1, 5, 16), "added_cond_kwargs": {"time_ids": torch.tensor([[64.0, 64.0]])}}
    with attach(unet, tuner) as edits, torch.no_grad():
        unet.up_blocks[-1].register_forward_pre_hook(
            lambda block, args, kwargs: skips.append(kwargs["res_hidden_states_tuple"][0]), with_kwargs=True
        )
        for seed in (0, 1):
            edits.set_hints({"canny": pattern(seed)[None]})
            unet(latents, 500, **given)
        edits.set_regions({"canny": torch.ones(1, 1, SIDE, SIDE)})
        unet(latents, 500, **given)
    with torch.no_grad():
        unet(latents, 500, **given)
    (one, other, within, bare) = skips
    left, right = slice(None, one.shape[-1] // 2), slice(one.shape[-1] // 2, None)
    assert torch.equal(one[..., right], other[..., right]) and not torch.equal(one[..., left], other[..., left])
    assert torch.equal(within[..., right], bare[..., right]) and torch.equal(within[..., left], other[..., left])
    assert not torch.equal(one[..., right], bare[..., right])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(data, 6, size=SIDE, kinds=("canny",))
    return data


@pytest.mark.parametrize("kind", ["csc", "sc"])
def test_a_run_trains_resumes_bit_for_bit_and_draws(kind, folder, dataset, tmp_path):
    tuner = {"kind": "csc", "condition": "canny", "hint_channels": 8} if kind == "csc" else {"kind": "sc"}
    recipe = {
        "base": {"model": str(folder)}, "tuner": tuner, "data": {"path": str(dataset), "caption_dropout": 0.3},
        "train": {"steps": 4, "batch_size": 3, "learning_rate": 0.01, "checkpoint_every": 2, "ema_decay": 0.5},
        "samples": {"every": 4, "count": 1, "steps": 2},
    }  # fmt: skip
    whole = job.train(Recipe.from_dict(recipe), out=tmp_path / "whole")

    def stop(event):
        if isinstance(event, Progress) and (event.stage, event.step) == ("training", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.train(Recipe.from_dict(recipe), out=tmp_path / "run", reporter=Recorder(stop))
    resumed = job.train(Recipe.from_dict(recipe), out=tmp_path / "run", resume=True)
    assert resumed.resumed_at == 2
    assert_same_end(tmp_path / "whole", tmp_path / "run")
    assert (tmp_path / "run" / "samples" / "step-000004.png").is_file()
    given = {"seeds": 3, "steps": 2, "sampler": SamplerConfig(width=SIDE, height=SIDE), "base": folder}
    control = [Control("canny", image=pattern())] if kind == "csc" else []
    (edited,) = generate("a cone", tuners=[whole.tuner], controls=control, **given).images
    (bare,) = generate("a cone", **given).images
    assert not np.array_equal(shown(edited.image), shown(bare.image))


def test_the_loss_is_that_of_flow_matching(folder, dataset):
    """Latents are the autoencoder's, noise levels those before the shift by size, and the target is noise - latents."""
    base = load_base(folder)
    cache = cache_latents_and_text(open_dataset(dataset), base)
    latents = base.latents_from(cache.moments_of([0, 1]), torch.Generator())
    images = torch.stack([to_tensor([Image.open(item.image)])[0] for item in open_dataset(dataset).items[:2]])
    with torch.no_grad():
        assert torch.allclose(latents, base.vae.encode(images * 2 - 1).latents, atol=1e-5)
    objective = Objective(base, TrainSection())
    noise, timesteps = draw(*latents.shape), torch.tensor([99, 699])
    noised = objective.noised(latents, noise, timesteps)
    sigmas = torch.tensor([0.1, 0.7]).view(-1, 1, 1, 1)
    assert torch.allclose(noised.noisy, (1 - sigmas) * latents + sigmas * noise, atol=1e-6)
    assert torch.allclose(noised.times, torch.tensor([100.0, 700.0]))
    assert objective.losses(noise - latents, noised).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sampler": SamplerConfig(width=SIDE, height=SIDE, scheduler="FlowMatchHeunDiscrete")}, "cannot shift"),
        ({"sampler": SamplerConfig(width=SIDE, height=SIDE, weighted=True)}, "does not read prompts for DreamLite"),
        ({"init": InitImage(image=Image.new("RGB", (SIDE, SIDE)))}, "not written for DreamLite"),
        ({"base": {"vae": "."}}, "its AutoencoderTiny cannot be replaced"),
    ],
)
def test_what_is_not_for_dreamlite_is_said(change, sentence, folder):
    change = dict(change)
    base = BaseConfig(str(folder), **change.pop("base", {}))
    with pytest.raises(SceditError, match=sentence):
        generate("a cone", base=base, steps=2, **change)


def test_no_graph_is_written(folder, tmp_path):
    base = load_base(folder)
    with pytest.raises(SceditError, match="no graph takes DreamLite's inputs"):
        UNetGraph(base, SCTuner.for_unet(base.unet), "onnx").write(tmp_path)


def test_a_step_is_estimated_on_a_batch_that_the_base_takes(folder):
    base = architecture(str(folder))
    assert (base.tokens, base.text_width) == (200, 16)
    found = {method: estimate(method, base, 2, SIDE, options=Options(lora_rank=4)) for method in ("sc", "lora")}
    assert 0 < found["sc"].flops_per_step < found["lora"].flops_per_step
    inputs, _ = random_batch(base, 2, SIDE, torch.float32, "cpu")
    with torch.no_grad():
        output = base.unet(torch.float32, "cpu")(inputs.latents, inputs.timesteps, **inputs.text).sample
    assert output.shape == inputs.latents.shape == (2, 4, 8, 8)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"encoder_hid_dim": 8}, "takes texts of width 8"),
        ({"projection_class_embeddings_input_dim": 12}, "takes 12 numbers"),
    ],
)
def test_unets_with_other_inputs_are_refused(setting, sentence, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "base")
    with quiet():
        config = diffusers.DreamLiteUNetModel.load_config(folder / "unet")
        diffusers.DreamLiteUNetModel.from_config(config | setting).save_pretrained(tmp_path / "base" / "unet")
    with pytest.raises(SceditError, match=sentence):
        load_base(tmp_path / "base")


@pytest.mark.parametrize(("part", "kind"), [("vae", "AutoencoderKL"), ("text_encoder", "CLIPTextModel")])
def test_parts_of_other_classes_are_refused(part, kind, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "base")
    index = json.loads((tmp_path / "base" / "model_index.json").read_text())
    index[part][1] = kind
    (tmp_path / "base" / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(SceditError, match=f"its {part} is a {kind}, not a"):
        load_base(tmp_path / "base")
