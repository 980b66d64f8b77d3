"""A U-Net with its tuners as one graph gives what `attach` gives, in onnxruntime and in torch.export."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from scedit_cli import Bundle, CSCTuner, SceditError, SCTuner, attach
from scedit_cli.exporting import graph_files
from scedit_cli.exporting.graph import EditedUNet
from scedit_cli.exporting.graph_files import UNetGraph
from scedit_cli.exporting.running import GraphAttachment, UNetFolder
from scedit_cli.inference.denoising import Guidance
from scedit_cli.inference.sampler import sample
from scedit_cli.models.base import Base, load_base
from tests import tiny
from tests.exporting.models import drawn, shades

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

FORMATS = ("onnx", "torch-export")


def base_of(unet: nn.Module, family: str = "sd15") -> Base:
    pipeline = tiny.pipeline(family)
    pipeline.register_modules(unet=unet)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    return Base("tiny", family, None, pipeline)


def two_levels() -> UNet2DConditionModel:
    """Skips, downsampling, attention (in the encoder alone) and SDXL's further inputs in the fewest operators, since
    exporting takes its time for each."""
    names = "addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim"
    sdxl = {name: tiny.unet("sdxl").config[name] for name in (*names, "cross_attention_dim")}
    fewest = {"mid_block_type": None, "up_block_types": ("UpBlock2D", "UpBlock2D")}
    return UNet2DConditionModel(**{**tiny.two_levels().config, **fewest, **sdxl})


@pytest.fixture(scope="module")
def base() -> Base:
    torch.manual_seed(0)
    return base_of(two_levels(), "sdxl")


@pytest.fixture(scope="module")
def tuners(base) -> list:
    """Two tuners, one of another precision than the base's."""
    csc = tiny.trained(CSCTuner.for_unet(base.unet, "canny", hint_channels=8), 1)
    return [tiny.trained(SCTuner.for_unet(base.unet).double(), 2), csc]


@pytest.fixture(scope="module")
def folders(base, tuners, tmp_path_factory) -> dict[str, Path]:
    """The graph with two tuners by format, their own scales 1 and 0.5; ONNX's weights in a file beside it. Both are
    written of one program, as tracing it takes most of the time."""
    for tuner in tuners:
        tuner.metadata = {"base": "tiny", "prediction_type": "epsilon"}
    places, real, programs = {}, graph_files._exported, []

    def once(edited):
        programs.append(programs[0] if programs else real(edited))
        return programs[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_files, "_exported", once)
        for format in FORMATS:
            places[format] = tmp_path_factory.mktemp(format)
            graph = UNetGraph(base, Bundle(tuners, [1.0, 0.5]), format, largest=10_000)
            graph.write(places[format], {"merge.rank": "8"})
    return places


@pytest.fixture(scope="module", params=FORMATS)
def folder(request, folders) -> Path:
    return folders[request.param]


@pytest.fixture(scope="module")
def ready(folder, base) -> Base:
    """The base with the graph in the place of its U-Net."""
    return UNetFolder(folder).on(base)


def text_of(base: Base, rows: int, tokens: int) -> dict:
    """The U-Net's conditions for `rows` images."""
    width = base.unet.config.cross_attention_dim
    text = {"encoder_hidden_states": drawn(rows, tokens, width, seed=6).to(base.dtype)}
    if base.family == "sdxl":
        pooled = drawn(rows, tiny.SECOND_WIDTH, seed=rows).to(base.dtype)
        sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).repeat(rows, 1)
        text["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
    return text


def check_calls(graph: nn.Module, base: Base, tuners: list, tolerance: float) -> None:
    """Batches of one and two, several sizes and token counts, scales that change between calls; 0 is the base's own."""
    bare, stride = [], max(base.skips.strides)
    long = (2 * stride, 5 * stride)
    for rows, size, tokens, scales in (
        (1, (8, 8), 77, (1.0, 0.5)),
        (2, (8, 8), 77, (-0.5, 2.0)),
        (2, long, 7, (1.0, 1.0)),
        (1, long, 7, (0.0, 0.0)),
    ):
        x, text = drawn(rows, 4, *size).to(base.dtype), text_of(base, rows, tokens)
        hint = shades(rows, 3, 8 * size[0], 8 * size[1])
        graph.scales = scales
        graph.set_hints({"canny": hint})
        found = graph(x, torch.tensor(500), **text).sample
        with torch.no_grad():
            alone = base.unet(x, 500, **text).sample
            with attach(base.unet, tuners, scales) as edits:
                edits.set_hints([hint])
                expected = base.unet(x, 500, **text).sample
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
        bare.append(float((found - alone).abs().max()))
    assert min(bare[:3]) > max(0.01, 10 * tolerance) and bare[3] <= tolerance
    graph.set_hints(None)
    graph(x, 500, **text)  # a tuner at scale 0 needs no hint


def test_it_gives_what_attach_gives(ready, base, tuners):
    graph = ready.unet
    assert graph.scales == (1.0, 0.5)
    check_calls(graph, base, tuners, 1e-4)
    graph.scales = (0.0, 0.5)
    with pytest.raises(SceditError, match="the canny tuner has no canny hint"):
        graph(drawn(1, 4, 8, 8), 500, **text_of(base, 1, 7))
    graph.scales = (0.0, 0.0)
    with pytest.raises(SceditError, match="a step has 64 rows, and the exported U-Net takes at most 63"):
        graph(drawn(64, 4, 8, 8), 500, **text_of(base, 64, 7))


def test_half_precision_in_onnx(tmp_path):
    """onnxruntime's CPU computes in float32 what it lacks in float16."""
    torch.manual_seed(0)
    half = base_of(tiny.one_block().half())
    tuners = [SCTuner.for_unet(half.unet), CSCTuner.for_unet(half.unet, "canny", hint_channels=8)]
    tuners = [tiny.trained(tuner.to(half.dtype)) for tuner in tuners]
    UNetGraph(half, Bundle(tuners), "onnx").write(tmp_path)
    graph = UNetFolder(tmp_path).on(half).unet
    assert graph.dtype == torch.float16
    check_calls(graph, half, tuners, 4e-3)


@pytest.mark.skipif("SCEDIT_WHOLE_GRAPHS" not in os.environ, reason="minutes for each family: see exports.md")
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_whole_topologies_in_onnx(family, tmp_path):
    base = load_base(tiny.pipeline_folder(family), device="cpu")
    csc = CSCTuner.for_unet(base.unet, "canny", hint_channels=8)
    tuners = [tiny.trained(SCTuner.for_unet(base.unet)), tiny.trained(csc, 2)]
    UNetGraph(base, Bundle(tuners), "onnx").write(tmp_path)
    check_calls(UNetFolder(tmp_path).on(base).unet, base, tuners, 1e-4)


@pytest.mark.parametrize("control", [1.0, 3.0])
def test_a_pipeline_samples_with_it(ready, base, tuners, control):
    """The same images as with the tuners attached, with guidance, from two prompts."""
    hints = {"canny": shades(2, 3, 64, 64)}
    given = {"seeds": [1, 2], "steps": 3, "guidance": Guidance(4.0, control=control), "height": 64,
             "width": 64, "hints": hints}  # fmt: skip
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
        with zipfile.ZipFile(folder / "unet.pt2") as archive:  # torch.export.load takes 8 s
            (entry,) = [name for name in archive.namelist() if name.endswith("extra/scedit.json")]
            told = json.loads(archive.read(entry))
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
        UNetFolder(folder).on(base_of(two_levels(), "sdxl"))


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "lcm"])
def test_the_module_to_export_takes_what_each_family_takes(family):
    """Before any exporter, since exporting a whole U-Net takes minutes: SDXL's and LCM's further inputs act."""
    base = load_base(tiny.pipeline_folder(family), device="cpu")
    tuner = tiny.trained(CSCTuner.for_unet(base.unet, "canny", hint_channels=8))
    edited = EditedUNet(base.unet, base.text_layout, [tuner])
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
    x, text = drawn(1, 4, 8, 8), text_of(base, 1, 7)
    before, state = base.unet(x, 500, **text).sample, torch.get_rng_state()
    EditedUNet(base.unet, base.text_layout, tuners).release()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(base.unet(x, 500, **text).sample, before)
    assert not any(module._forward_pre_hooks for module in base.unet.modules())


def test_exporting_leaves_the_tuners_as_they_were(tuners, folders):
    assert [tuner.dtype for tuner in tuners] == [torch.float64, torch.float32]
    for tuner in tuners:
        assert tuner.training and all(weight.requires_grad for weight in tuner.parameters())


def test_no_path_of_this_machine_is_in_the_files(folder):
    for file in folder.iterdir():
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                content = b"".join(archive.read(name) for name in archive.namelist())
        else:
            content = file.read_bytes()
        assert b"graph.py" not in content


class _Guessing(nn.Module):
    """An operator whose path depends on the values, which no graph can hold."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def test_a_base_that_no_graph_can_hold_is_a_sentence(tmp_path, capfd):
    unet = tiny.one_block()
    unet.conv_act = _Guessing()
    with pytest.raises(SceditError, match="base tiny: its U-Net cannot be exported to torch-export: "):
        UNetGraph(base_of(unet), SCTuner.for_unet(unet), "torch-export").write(tmp_path)
    assert not list(tmp_path.iterdir()) and "def forward" not in "".join(capfd.readouterr())
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
        EditedUNet(base.unet, base.text_layout, pair)
