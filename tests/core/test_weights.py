from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from scedit_cli import Bundle, CSCTuner, SceditError, SCTuner, load_tuner, save_tuner
from scedit_cli.core.source import locate_pinned, read

FACTS = {"base": "sd15", "base_fingerprint": "0a1b", "prediction_type": "epsilon", "recipe": "steps = 3", "steps": "3"}


@pytest.fixture
def canny(unet, trained):
    sizes = {"hint_kernel": 3, "hint_channels": 24, "hint_width": 0.33, "down_ratio": 0.5, "in_channels": 1}
    return trained(CSCTuner.for_unet(unet, condition="canny", **sizes))


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


def test_sc_tuner_comes_back(unet, trained, tmp_path):
    tuner = trained(SCTuner.for_unet(unet, down_ratio=0.25))
    save_tuner(tuner, tmp_path / "style.safetensors", FACTS)
    loaded = load_tuner(tmp_path / "style.safetensors")
    assert type(loaded) is SCTuner and loaded.condition is None
    assert same_weights(loaded, tuner)
    assert FACTS.items() <= loaded.metadata.items()
    assert os.listdir(tmp_path) == ["style.safetensors"]


def test_csc_tuner_comes_back_knowing_nothing_else(canny, tmp_path):
    save_tuner(canny, tmp_path / "edges.safetensors", FACTS)
    loaded = load_tuner(str(tmp_path / "edges.safetensors"))
    assert type(loaded) is CSCTuner and loaded.condition == "canny"
    assert loaded.sizes == canny.sizes
    assert same_weights(loaded, canny)


def test_the_header_describes_the_file(canny, tmp_path):
    save_tuner(canny, tmp_path / "edges.safetensors", FACTS | {"modelspec.title": "Edges"})
    header = read(tmp_path / "edges.safetensors")[0]
    assert header["format"] == "scedit/1" and header["kind"] == "csc" and header["condition"] == "canny"
    assert json.loads(header["skip_channels"]) == [16, 16, 16, 32, 32, 32]
    assert header["modelspec.sai_model_spec"] == "1.0.0"
    assert header["modelspec.architecture"] == "sd15/scedit-csc"
    assert header["modelspec.title"] == "Edges"
    assert FACTS.items() <= header.items()


def test_one_tuner_is_one_file_byte_for_byte(canny, tmp_path):
    files = [save_tuner(canny, tmp_path / str(i) / "t.safetensors", FACTS | {"é": "ü"}) for i in range(5)]
    assert len({file.read_bytes() for file in files}) == 1
    assert read(files[0])[0]["é"] == "ü"


def test_facts_stay_when_a_loaded_tuner_is_saved_again(canny, tmp_path):
    save_tuner(canny, tmp_path / "a.safetensors", FACTS)
    loaded = load_tuner(tmp_path / "a.safetensors")
    loaded.condition = "edges"
    save_tuner(loaded, tmp_path / "b.safetensors", {"steps": "9"})
    header = read(tmp_path / "b.safetensors")[0]
    assert header["condition"] == "edges" and header["steps"] == "9" and header["recipe"] == FACTS["recipe"]
    assert header["modelspec.title"] == "b"


def test_bundle_comes_back_with_its_scales(unet, canny, trained, tmp_path):
    style = trained(SCTuner.for_unet(unet))
    style.metadata = {"recipe": "style"}
    depth = trained(CSCTuner.for_unet(unet, condition="depth"), seed=7)
    save_tuner(Bundle([style, canny, depth], [0.7, -0.5, 1.25]), tmp_path / "combo.safetensors")
    loaded = load_tuner(tmp_path / "combo.safetensors")
    assert isinstance(loaded, Bundle) and loaded.scales == (0.7, -0.5, 1.25)
    assert [tuner.condition for tuner in loaded.tuners] == [None, "canny", "depth"]
    assert loaded.tuners[0].metadata["recipe"] == "style"
    assert all(same_weights(a, b) for a, b in zip(loaded.tuners, [style, canny, depth], strict=True))


@pytest.mark.parametrize(("stored", "computed"), [("half", "float32"), ("bfloat16", "float32"), ("double", "float64")])
def test_loaded_tuners_compute_in_float32_or_float64(canny, tmp_path, stored, computed):
    save_tuner(getattr(canny, stored)(), tmp_path / "t.safetensors")
    loaded = load_tuner(tmp_path / "t.safetensors")
    assert {parameter.dtype for parameter in loaded.parameters()} == {getattr(torch, computed)}
    assert all(torch.equal(a.to(b), b) for a, b in zip(canny.parameters(), loaded.parameters(), strict=True))


def test_a_folder_with_one_tuner(canny, tmp_path):
    (tmp_path / "default").mkdir()
    save_tuner(canny, tmp_path / "default" / "adapter.safetensors")
    assert same_weights(load_tuner(tmp_path), canny)
    save_tuner(canny, tmp_path / "x.safetensors")
    (tmp_path / ".1-000000~z.safetensors").touch()  # what a killed process was writing
    assert same_weights(load_tuner(tmp_path), canny)
    save_tuner(canny, tmp_path / "y.safetensors")
    with pytest.raises(SceditError, match="holds several files: x.safetensors, y.safetensors"):
        load_tuner(tmp_path)
    save_tuner(canny, tmp_path / "tuner.safetensors")
    assert same_weights(load_tuner(tmp_path), canny)


def test_a_tuner_of_the_hub(canny, tmp_path, monkeypatch):
    save_tuner(canny, tmp_path / "0a1b2c" / "weights" / "canny.safetensors")
    asked = []

    def snapshot(repository, *, revision, allow_patterns):
        asked.append((repository, revision))
        assert allow_patterns == ["*.safetensors", "*.bin", "*.json"]
        return str(tmp_path / "0a1b2c")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    for name in ("owner/name", "owner/name@v2"):
        assert same_weights(load_tuner(name), canny)
    assert asked == [("owner/name", None), ("owner/name", "v2")]
    assert locate_pinned("owner/name@v2")[1] == "owner/name@0a1b2c"
    assert locate_pinned(tmp_path / "0a1b2c" / "weights")[1] is None


def test_what_cannot_be_saved(canny, tmp_path):
    with pytest.raises(SceditError, match="ends in .safetensors"):
        save_tuner(canny, tmp_path / "edges.pt")
    with pytest.raises(SceditError, match="metadata steps is int"):
        save_tuner(canny, tmp_path / "edges.safetensors", {"steps": 3})
    (tmp_path / "file").write_text("")
    with pytest.raises(SceditError, match="could not be written"):
        save_tuner(canny, tmp_path / "file" / "edges.safetensors")
    assert os.listdir(tmp_path) == ["file"]


def changed(file, tensors=lambda t: t, header=lambda h: h):
    """Writes `file` again with other tensors or another header."""
    with safe_open(file, framework="pt") as opened:
        before = opened.metadata()
    save_file(tensors(load_file(file)), file, metadata=header(before))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensors": lambda t: {k: v for k, v in t.items() if k != "maps.2.up.bias"}}, "missing maps.2.up.bias"),
        ({"tensors": lambda t: t | {"maps.9.up.bias": torch.zeros(1)}}, "unexpected maps.9.up.bias"),
        ({"tensors": lambda t: t | {"maps.2.up.bias": torch.zeros(1)}}, r"maps.2.up.bias is \(1,\) instead of \(16,\)"),
        ({"header": lambda h: h | {"format": "scedit/2"}}, "format scedit/2, this program reads scedit/1"),
        ({"header": lambda h: {k: v for k, v in h.items() if k != "sizes"}}, "metadata is incomplete: KeyError"),
        ({"header": lambda h: h | {"sizes": "{"}}, "metadata is incomplete: JSONDecodeError"),
        ({"header": lambda h: h | {"kind": "abc"}}, "metadata is incomplete: KeyError"),
        ({"header": lambda h: None}, "is a scedit tuner whose metadata was lost"),
    ],
)
def test_loading_is_strict(canny, tmp_path, change, message):
    save_tuner(canny, tmp_path / "edges.safetensors")
    changed(tmp_path / "edges.safetensors", **change)
    with pytest.raises(SceditError, match=message) as error:
        load_tuner(tmp_path / "edges.safetensors")
    assert "edges.safetensors" in error.value.message and error.value.hint


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("unet.down_blocks.0.attentions.0.to_q.lora_A.weight", "a LoRA"),
        ("lora_unet_down_blocks_0_attentions_0.lora_down.weight", "a LoRA"),
        ("controlnet_cond_embedding.conv_in.weight", "a ControlNet"),
        ("control_model.zero_convs.0.0.weight", "a ControlNet"),
        ("adapter.body.0.resnets.0.block1.weight", "a T2I-Adapter"),
        ("body.0.in_conv.weight", "a T2I-Adapter"),
        ("image_proj.proj.weight", "an IP-Adapter"),
        ("model.diffusion_model.input_blocks.0.0.weight", "a full Stable Diffusion checkpoint"),
        ("up_blocks.0.resnets.0.conv1.weight", "a whole U-Net"),
        ("decoder.up_blocks.0.resnets.0.conv1.weight", "a VAE"),
        ("text_model.embeddings.token_embedding.weight", "a text encoder"),
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "a LyCORIS adapter"),
        ("transformer.single_transformer_blocks.0.proj_mlp.weight", "a diffusion transformer"),
        ("fc.weight", "a file with keys such as 'fc.weight'"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, key, message):
    save_file({key: torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(SceditError, match=f"other.safetensors is {message}, not an SC-Tuner or CSC-Tuner"):
        load_tuner(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("key", "tool"),
    [
        ("unet.down_blocks.0.attentions.0.to_q.lora_A.weight", "load_lora_weights"),
        ("controlnet_cond_embedding.conv_in.weight", "ControlNetModel"),
        ("body.0.in_conv.weight", "T2IAdapter"),
        ("image_proj.proj.weight", "load_ip_adapter"),
        ("model.diffusion_model.input_blocks.0.0.weight", "it is a base, for generate's `base`"),
    ],
)
def test_the_tool_that_takes_them_is_named(tmp_path, key, tool):
    save_file({key: torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(SceditError) as error:
        load_tuner(tmp_path / "other.safetensors")
    assert tool in error.value.hint


def test_whole_numbers_are_no_weights(tmp_path):
    save_file(
        {"model.lsc_identity.0.tuner_op.ln1.weight": torch.zeros(2, 2, dtype=torch.int8)}, tmp_path / "q.safetensors"
    )
    with pytest.raises(SceditError, match="q.safetensors: model.lsc_identity.0.tuner_op.ln1.weight is int8"):
        load_tuner(tmp_path / "q.safetensors")


def test_up_blocks_come_back(unet, trained, tmp_path):
    tuner = trained(SCTuner.for_unet(unet))
    assert tuner.up_blocks == (2, 2, 2)
    assert load_tuner(save_tuner(tuner, tmp_path / "a.safetensors")).up_blocks == (2, 2, 2)
    tuner.up_blocks = None
    assert load_tuner(save_tuner(tuner, tmp_path / "a.safetensors")).up_blocks is None


def test_a_header_that_asks_for_the_moon_takes_no_memory(canny, tmp_path):
    save_tuner(canny, tmp_path / "edges.safetensors")
    sizes = json.loads(read(tmp_path / "edges.safetensors")[0]["sizes"])
    for channels in ([10**9] * 6, [-1] * 6):
        changed(
            tmp_path / "edges.safetensors",
            header=lambda h, c=channels: h | {"sizes": json.dumps(sizes | {"channels": c})},
        )
        with pytest.raises(SceditError, match="edges.safetensors"):
            load_tuner(tmp_path / "edges.safetensors")


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.safetensors").write_text("not a tensor")
    with pytest.raises(SceditError, match="text.safetensors cannot be read as safetensors"):
        load_tuner(tmp_path / "text.safetensors")
    save_file({}, tmp_path / "nothing.safetensors")
    with pytest.raises(SceditError, match="is an empty file"):
        load_tuner(tmp_path / "nothing.safetensors")
    with pytest.raises(SceditError, match="no such tuner file"):
        load_tuner(tmp_path / "absent.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SceditError, match="holds no tuner file"):
        load_tuner(tmp_path / "empty")


class Trap:
    """Would run code when unpickled carelessly."""

    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_pickles_are_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Trap()}, tmp_path / "trap.bin")
    with pytest.raises(SceditError, match="more than plain tensors"):
        load_tuner(tmp_path / "trap.bin")
    torch.save({"a": torch.zeros(1)}, tmp_path / "tuner.pt")
    with pytest.raises(SceditError, match=r"\.pt is not read, because such a file may run code"):
        load_tuner(tmp_path / "tuner.pt")
    assert not (tmp_path / "trapped").exists()


def test_our_files_know_their_condition(canny, tmp_path):
    save_tuner(canny, tmp_path / "edges.safetensors")
    assert load_tuner(tmp_path / "edges.safetensors", condition="canny").condition == "canny"
    with pytest.raises(SceditError, match="takes canny, not depth"):
        load_tuner(tmp_path / "edges.safetensors", condition="depth")
