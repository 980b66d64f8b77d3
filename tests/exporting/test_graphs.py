"""A U-Net with its tuners as one graph gives what `attach` gives, in onnxruntime and in torch.export."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn

from scedit_cli import Bundle, CSCTuner, SceditError, SCTuner, attach
from scedit_cli.exporting.graph import EditedUNet
from scedit_cli.exporting.graph_files import UNetGraph
from scedit_cli.exporting.running import GraphAttachment, UNetFolder
from scedit_cli.inference.sampler import sample
from scedit_cli.models.base import Base, load_base
from tests import tiny
from tests.exporting.models import drawn, shades

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


def base_of(unet: nn.Module) -> Base:
    parts = tiny.pipeline("sd15").components | {"unet": unet.eval().requires_grad_(False)}
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    for part in (pipeline.vae, pipeline.text_encoder):
        part.eval().requires_grad_(False)
    return Base("tiny", "sd15", None, pipeline)


def two_levels() -> UNet2DConditionModel:
    """Skips, downsampling and attention in the fewest operators, since exporting takes its time for each."""
    return UNet2DConditionModel(**{**tiny.two_levels().config, "mid_block_type": None})


@pytest.fixture(scope="module")
def base() -> Base:
    torch.manual_seed(0)
    return base_of(two_levels())


@pytest.fixture(scope="module")
def tuners(base) -> list:
    csc = tiny.trained(CSCTuner.for_unet(base.unet, "canny", hint_channels=8), 1)
    return [tiny.trained(SCTuner.for_unet(base.unet), 2), csc]


@pytest.fixture(scope="module", params=["onnx", "torch-export"])
def folder(request, base, tuners, tmp_path_factory):
    """The graph with two tuners, their own scales 1 and 0.5; ONNX's weights in a file beside it."""
    place = tmp_path_factory.mktemp(request.param)
    for tuner in tuners:
        tuner.metadata = {"base": "tiny", "prediction_type": "epsilon"}
    UNetGraph(base, Bundle(tuners, [1.0, 0.5]), request.param, largest=10_000).write(place, {"merge.rank": "8"})
    return place


@pytest.fixture(scope="module")
def ready(folder, base) -> Base:
    """The base with the graph in the place of its U-Net."""
    return UNetFolder(folder).on(base)


def attached(base: Base, tuners: list, scales: tuple, x: Tensor, context: Tensor, hint: Tensor) -> Tensor:
    with torch.no_grad(), attach(base.unet, tuners, scales) as edits:
        edits.set_hints([hint])
        return base.unet(x, 500, context).sample


def test_it_gives_what_attach_gives(ready, base, tuners):
    """Batches of one and two, several sizes and token counts, scales that change between calls; 0 is the base's own."""
    graph = ready.unet
    assert graph.scales == (1.0, 0.5)
    bare = []
    for rows, size, tokens, scales in (
        (1, (8, 8), 77, (1.0, 0.5)),
        (2, (8, 8), 77, (-0.5, 2.0)),
        (2, (4, 10), 7, (1.0, 1.0)),
        (1, (4, 10), 7, (0.0, 0.0)),
    ):
        x, context = drawn(rows, 4, *size), drawn(rows, tokens, tiny.TEXT_WIDTH, seed=6)
        hint = shades(rows, 3, 8 * size[0], 8 * size[1])
        graph.scales = scales
        graph.set_hints({"canny": hint})
        found = graph(x, torch.tensor(500), context).sample
        torch.testing.assert_close(found, attached(base, tuners, scales, x, context, hint), rtol=0, atol=1e-4)
        bare.append(float((found - base.unet(x, 500, context).sample).abs().max()))
    assert min(bare[:3]) > 0.01 > bare[3]
    graph.set_hints(None)
    graph(x, 500, context)  # a tuner at scale 0 needs no hint
    graph.scales = (0.0, 0.5)
    with pytest.raises(SceditError, match="the canny tuner has no canny hint"):
        graph(x, 500, context)


def test_a_pipeline_samples_with_it(ready, base, tuners):
    """The same images as with the tuners attached, with guidance, from two prompts."""
    hints = {"canny": shades(2, 3, 64, 64)}
    given = {"seeds": [1, 2], "steps": 3, "guidance": 4.0, "height": 64, "width": 64, "hints": hints}
    ready.unet.reset()
    acting = GraphAttachment(ready.unet, tuners[::-1])
    acting.scales = [0.5, 1.0]
    found = sample(ready, ["a cone", "a cube"], attachment=acting, **given)
    with attach(base.unet, tuners, [1.0, 0.5]) as edits:
        expected = sample(base, ["a cone", "a cube"], attachment=edits, **given)
    without = sample(base, ["a cone", "a cube"], **{**given, "hints": None})
    assert _apart(found, expected) <= 1 < _apart(expected, without)


def _apart(ones: list, others: list) -> int:
    """The largest difference of two lists of images, in levels."""
    pairs = zip(ones, others, strict=True)
    return max(abs(a - b) for one, other in pairs for a, b in zip(one.tobytes(), other.tobytes(), strict=True))


def test_it_describes_itself(folder, base):
    about = json.loads((folder / "scedit.json").read_text())
    if about["file"] == "unet.onnx":
        model = onnx.load(folder / "unet.onnx", load_external_data=False)
        told = {each.key: each.value for each in model.metadata_props}
        told = {name: json.loads(told[name]) for name in ("tuners", "facts", "inputs")} | {"base": told["base"]}
        assert [each.name for each in model.graph.input] == list(about["inputs"])
        assert [each.name for each in model.graph.output] == [about["output"]["name"]]
    else:
        files = {"scedit.json": ""}
        torch.export.load(folder / "unet.pt2", extra_files=files)
        told = json.loads(files["scedit.json"])
    for name in ("tuners", "facts", "inputs", "base"):
        assert told[name] == about[name]
    assert about["base_fingerprint"] == base.fingerprint and about["facts"] == {"merge.rank": "8"}
    assert [(each["condition"], each["scale"]) for each in about["tuners"]] == [(None, 1.0), ("canny", 0.5)]
    assert about["tuners"][1]["metadata"]["prediction_type"] == "epsilon"
    assert about["inputs"]["hint_canny"]["shape"] == ["batch", 3, "8*height", "8*width"]
    assert about["inputs"]["sample"] == {"dtype": "float32", "shape": ["batch", 4, "height", "width"]}


def test_large_weights_lie_in_a_file_beside_it(folder, base):
    if not (folder / "unet.onnx").exists():
        pytest.skip("of ONNX alone")
    weights = sum(each.nbytes for each in base.unet.parameters())
    data = folder / "unet.onnx.data"
    assert data.stat().st_size > 0.9 * weights and (folder / "unet.onnx").stat().st_size < 10 * weights
    location = {
        entry.value
        for tensor in onnx.load(folder / "unet.onnx", load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert location == {data.name}


def test_another_base_is_refused(folder):
    torch.manual_seed(1)
    with pytest.raises(SceditError, match="was exported from tiny, and tiny has other weights"):
        UNetFolder(folder).on(base_of(two_levels()))


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "lcm"])
def test_the_module_to_export_takes_what_each_family_takes(family):
    """Before any exporter, since exporting a whole U-Net takes minutes: SDXL's and LCM's further inputs act."""
    base = load_base(tiny.pipeline_folder(family), device="cpu")
    tuner = tiny.trained(CSCTuner.for_unet(base.unet, "canny", hint_channels=8))
    edited = EditedUNet(base, [tuner])
    given = edited.example
    further = {"sdxl": ["text_embeds", "time_ids"], "lcm": ["timestep_cond"]}.get(family, [])
    with torch.no_grad():
        found = edited(given)
        for name in further:
            assert not torch.equal(edited(given | {name: given[name] + 1}), found)
        assert torch.equal(
            edited(given | {"scale_canny": torch.tensor(0.0)}), edited.unet(*_arguments(given), **_further(given))[0]
        )
        edited.release()
        with attach(base.unet, tuner, 0.5) as edits:
            edits.set_hints([given["hint_canny"]])
            expected = base.unet(*_arguments(given), **_further(given))[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert set(given) == {
        "sample", "timestep", "encoder_hidden_states", "hint_canny", "scale_canny", *further
    }  # fmt: skip


def _arguments(given: dict) -> tuple:
    return given["sample"], given["timestep"], given["encoder_hidden_states"]


def _further(given: dict) -> dict:
    added = {name: given[name] for name in ("text_embeds", "time_ids") if name in given}
    return {"timestep_cond": given.get("timestep_cond"), "added_cond_kwargs": added or None}


def test_exporting_leaves_the_unet_as_it_was(base, tuners):
    x, context = drawn(1, 4, 8, 8), drawn(1, 7, tiny.TEXT_WIDTH)
    before = base.unet(x, 500, context).sample
    EditedUNet(base, tuners).release()
    assert torch.equal(base.unet(x, 500, context).sample, before)
    assert not any(module._forward_pre_hooks for module in base.unet.modules())


def test_exporting_leaves_the_tuners_as_they_were(base, tmp_path):
    tuner = SCTuner.for_unet(base.unet).double()
    UNetGraph(base, tuner, "torch-export").write(tmp_path)
    assert tuner.training and tuner.dtype == torch.float64
    assert all(weight.requires_grad for weight in tuner.parameters())


class _Guessing(nn.Module):
    """An operator whose path depends on the values, which no graph can hold."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def test_a_base_that_no_graph_can_hold_is_a_sentence(tmp_path):
    unet = tiny.one_block()
    unet.conv_act = _Guessing()
    with pytest.raises(SceditError, match="base tiny: its U-Net cannot be exported to torch-export: "):
        UNetGraph(base_of(unet), SCTuner.for_unet(unet), "torch-export").write(tmp_path)
    assert not list(tmp_path.iterdir())
    assert not any(module._forward_pre_hooks for module in unet.modules())


def test_what_is_no_exported_unet_is_told(tmp_path, folder):
    with pytest.raises(SceditError, match="is no folder with an exported U-Net"):
        UNetFolder(tmp_path)
    about = json.loads((folder / "scedit.json").read_text())
    (tmp_path / "scedit.json").write_text(json.dumps(about | {"format": "scedit-unet/9"}))
    with pytest.raises(SceditError, match="its format is scedit-unet/9, and this program reads scedit-unet/1"):
        UNetFolder(tmp_path)
    (tmp_path / "scedit.json").write_text(json.dumps(about))
    with pytest.raises(SceditError, match=f"{about['file']} is missing"):
        UNetFolder(tmp_path)


def test_two_tuners_of_one_input_are_refused(base):
    pair = [CSCTuner.for_unet(base.unet, name, hint_channels=8) for name in ("a-b", "a_b")]
    with pytest.raises(SceditError, match="two tuners would have the input hint_a_b"):
        EditedUNet(base, pair)
