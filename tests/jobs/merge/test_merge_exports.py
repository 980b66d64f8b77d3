"""What merge writes for the programs where images are made: nodes for ComfyUI, and graphs of a U-Net."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline

from scedit_cli import CSCTuner, SceditError, SCTuner, load_tuner, save_tuner
from scedit_cli.exporting import graph_files
from scedit_cli.exporting.running import UNetFolder
from scedit_cli.utils.errors import WorkFailed
from scedit_cli.utils.reporter import Reporter
from tests import tiny
from tests.jobs.merge.conftest import merge


def test_nodes_for_comfyui_keep_every_tuner_with_its_scale(edited, unet, saved, tmp_path):
    one, two, canny, out = saved(name="one"), saved(name="two", seed=2), saved("canny", seed=3), tmp_path / "nodes"
    events = []
    reporter = type("Notes", (Reporter,), {"note": lambda self, text: events.append(text)})()
    result = merge([f"{one}:0.7", f"{two}:-0.5", f"{canny}:0.4"], out=out, format="comfyui", reporter=reporter)
    assert (result.kind, result.format) == ("bundle", "comfyui") and result.max_difference < 1e-5
    assert sorted(file.name for file in (out / "tuners").iterdir()) == ["canny.safetensors", "style.safetensors"]
    assert (out / "__init__.py").is_file() and (out / "example_workflows" / "scedit.json").is_file()
    assert any("custom_nodes" in text for text in events)
    style, edges = load_tuner(out / "tuners" / "style.safetensors"), load_tuner(out / "tuners" / "canny.safetensors")
    assert edges.scales == (0.4,) and edges.metadata["modelspec.title"] == "canny"
    hint = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = edited(unet, [load_tuner(file) for file in (one, two, canny)], [0.7, -0.5, 0.4], canny=hint)
    torch.testing.assert_close(edited(unet, [style, edges], canny=hint), expected, rtol=0, atol=1e-5)


def test_halved_nodes_are_of_that_precision(saved, tmp_path):
    merge([str(saved("canny"))], out=tmp_path / "nodes", format="comfyui", dtype="fp16")
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "nodes" / "tuners" / "canny.safetensors")
    assert {each.dtype for each in tensors.values()} == {torch.float16}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "comfyui", "out": "nodes.safetensors"}, "the format comfyui is a folder"),
        ({"format": "onnx", "base": "scenes", "out": "unet.onnx"}, "the format onnx is a folder"),
        ({"format": "comfyui", "out": "full"}, "full exists already"),
        ({"format": "comfyui", "base": "scenes"}, "`base` scenes: the format comfyui holds tuners alone"),
        ({"format": "onnx"}, "and there is no `base`"),
        ({"format": "torch-export", "base": "scenes", "dtype": "fp64"}, "an exported U-Net is of fp32 or fp16"),
        ({"format": "torch-export", "base": "lost.safetensors"}, "lost.safetensors"),
        ({"format": "torch-export", "base": "scenes"}, "is a tuner for another base, not for scenes"),
    ],
    ids=str,
)
def test_bad_input_is_a_sentence_and_nothing_is_written(saved, tmp_path, options, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    tuner = saved("canny")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SceditError, match=message) as caught:
        merge([str(tuner)], **({"out": "new"} | options | {"out": tmp_path / options.get("out", "new")}))
    assert caught.value.exit_code == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_two_tuners_of_one_condition_are_a_sentence(saved, tmp_path):
    files = [str(saved("canny")), str(saved("canny", name="again", seed=4))]
    with pytest.raises(SceditError, match="both take canny conditions"):
        merge(files, out=tmp_path / "nodes", format="comfyui")
    assert not (tmp_path / "nodes").exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A base of few operators in a folder, with a tuner for it."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    unet = tiny.one_block()
    parts = tiny.pipeline("sd15").components | {"unet": unet}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder / "base")
    files = []
    for tuner in (CSCTuner.for_unet(unet, "canny", hint_channels=8), SCTuner.for_unet(unet)):
        files.append(save_tuner(tiny.trained(tuner), folder / f"{tuner.condition or 'style'}.safetensors"))
    return folder / "base", files


def test_a_graph_is_run_beside_the_attached_tuners_before_it_appears(small, tmp_path):
    base, (canny, style) = small
    state = torch.get_rng_state()
    result = merge([f"{canny}:0.4", str(style)], out=tmp_path / "unet", format="torch-export", base=str(base))
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers go on as they were"
    assert result.max_difference < 1e-4 and result.format == "torch-export"
    assert sorted(file.name for file in (tmp_path / "unet").iterdir()) == ["scedit.json", "unet.pt2"]
    about = json.loads((tmp_path / "unet" / "scedit.json").read_text())
    assert about["max_difference"] == result.max_difference and about["base"] == str(base)
    assert UNetFolder(tmp_path / "unet").tuner.scales == (1.0, 0.4)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")], ids=str)
def test_an_interrupted_export_leaves_nothing(small, tmp_path, monkeypatch, stop):
    base, (canny, _) = small

    def half(program, edited, file, *more):
        file.write_bytes(b"half")
        raise stop

    monkeypatch.setattr(graph_files, "_exported", lambda edited: None)
    monkeypatch.setattr(graph_files, "_write_exported", half)
    with pytest.raises((KeyboardInterrupt, WorkFailed)):
        merge([str(canny)], out=tmp_path / "unet", format="torch-export", base=str(base))
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_came_out_wrong_does_not_appear(small, tmp_path, monkeypatch):
    base, (_, style) = small
    real = graph_files._exported

    def other(edited):
        with torch.no_grad():
            made = real(edited)
            made.state_dict["tuners.0.maps.0.up.bias"] = torch.nn.Parameter(edited.tuners[0].maps[0].up.bias + 5.0)
        return made

    monkeypatch.setattr(graph_files, "_exported", other)
    with pytest.raises(WorkFailed, match="differ by .* from the attached tuners'"):
        merge([str(style)], out=tmp_path / "unet", format="torch-export", base=str(base))
    assert list(tmp_path.iterdir()) == []
