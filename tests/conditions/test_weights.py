"""Where weights come from, what is said where they are not there, and what is never loaded."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from scedit_cli import conditions
from scedit_cli.conditions import weights
from scedit_cli.utils import hub
from scedit_cli.utils.errors import SceditError, WorkFailed
from tests.conditions.local_weights import save_weights
from tests.conditions.photos import astronaut

PLACE = "owner/nets:net.pth"


@pytest.mark.parametrize("folder", ["owner/nets", "nets", "."])
def test_a_local_copy_may_lie_so(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    torch.save({"a": torch.ones(2)}, tmp_path / folder / "net.pth")
    assert weights.state_of(PLACE, tmp_path)["a"].tolist() == [1, 1]


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(
        SceditError,
        match=rf"has no net\.pth of owner/nets .*hf download owner/nets net\.pth --local-dir {tmp_path}/owner/nets",
    ):
        weights.state_of(PLACE, tmp_path)
    with pytest.raises(SceditError, match="none is no folder"):
        weights.state_of(PLACE, tmp_path / "none")
    with pytest.raises(SceditError, match=r"has no config\.json of Intel/dpt-hybrid-midas .*hf download Intel/dpt"):
        conditions.annotate("depth", astronaut(64, 64), "midas", weights=tmp_path)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub.answers.cache_clear()
    yield
    hub.answers.cache_clear()


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("hed", r"hf download lllyasviel/Annotators ControlNetHED\.pth --local-dir DIR/lllyasviel/Annotators"),
        ("depth", r"hf download depth-anything/Depth-Anything-V2-Small-hf --local-dir DIR/depth-anything/Depth"),
        ("seg", r"hf download shi-labs/oneformer_ade20k_swin_large --local-dir"),
        ("pose", r"hf download yzd-v/DWPose yolox_l\.onnx dw-ll_ucoco_384\.onnx --local-dir DIR/yzd-v/DWPose"),
    ],
)
def test_a_hub_out_of_reach_is_told(offline, kind, command):
    with pytest.raises(WorkFailed, match=rf"the hub does not give them \(.*{command}.*then `weights=DIR`"):
        conditions.annotate(kind, astronaut(64, 64))


class Harmful:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_carries_a_program_is_refused(tmp_path):
    for save in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        save({"a": Harmful(tmp_path / "harm")}, tmp_path / "net.pth")
        with pytest.raises(SceditError, match=r"net\.pth holds no plain PyTorch weights"):
            weights.state_of(PLACE, tmp_path)
        assert not (tmp_path / "harm").exists()


def test_a_network_is_filled_completely():
    state = nn.Linear(2, 2).state_dict()
    filled = weights.filled(
        nn.Linear(2, 2), {f"module.{name}": value.half() for name, value in state.items()}, "x", "cpu"
    )
    assert filled.weight.dtype == torch.float32 and not filled.training
    assert torch.equal(filled.weight, state["weight"].half().float())
    for wrong, told in (
        ({"weight": state["weight"]}, ".*Missing key.*bias"),
        (state | {"more": state["bias"]}, ".*Unexpected key.*more"),
        (state | {"bias": torch.ones(3)}, ".*size mismatch for bias"),
        ({1: 2}, ""),
    ):
        with pytest.raises(SceditError, match=f"owner/nets:net.pth does not hold the weights of Linear: {told}"):
            weights.filled(nn.Linear(2, 2), wrong, PLACE, "cpu")


@pytest.fixture(scope="module")
def segformer(tmp_path_factory):
    return save_weights(conditions.find("seg").annotator("segformer"), tmp_path_factory.mktemp("segformer"))


HARM = "harm"  # a folder that a program in a file would make


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pytorch_model.bin", lambda harm: pickle.dumps({"a": Harmful(harm)})),
        ("pytorch_model.bin", lambda harm: saved({"a": Harmful(harm)})),
        ("pytorch_model.bin", lambda _: b"junk"),
        ("pytorch_model.bin", lambda _: b""),
        ("pytorch_model.bin", lambda _: saved([1, 2])),
        ("model.safetensors", lambda _: b"{}"),
        ("config.json", lambda _: b"[]"),
        ("config.json", lambda _: b'{"model_type": "segformer", "depths": "x", "hidden_sizes": {}}'),
        ("config.json", lambda _: b'{"model_type": "x", "auto_map": {"AutoConfig": "evil.Config"}}'),
        ("preprocessor_config.json", lambda _: b"[1]"),
        ("preprocessor_config.json", lambda _: b'{"image_processor_type": 3}'),
    ],
)
def test_hostile_files_for_transformers_are_told(segformer, tmp_path, name, content):
    annotator = conditions.find("seg").annotator("segformer")
    folder = tmp_path / annotator.weights[0]
    shutil.copytree(segformer / annotator.weights[0], folder)
    if name.endswith(".bin"):
        (folder / "model.safetensors").unlink()
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / HARM)!r})")
    (folder / name).write_bytes(content(tmp_path / HARM))
    with pytest.raises(SceditError, match="b5-finetuned-ade-640-640 (cannot be loaded|is no complete)") as told:
        annotator.loader(annotator.settings(), tmp_path, "cpu")
    assert told.value.exit_code == 2 and "hf download" in told.value.hint
    assert not (tmp_path / HARM).exists()


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_folder_with_code_of_its_own_is_refused_unasked(tmp_path, monkeypatch, name):
    annotator = conditions.find("depth").annotator("depth-anything")
    folder = save_weights(annotator, tmp_path) / annotator.weights[0]
    classes = {"AutoConfig": "evil.Config", "AutoModelForDepthEstimation": "evil.Net", "AutoImageProcessor": "evil.Eye"}
    (folder / name).write_text(json.dumps({"model_type": "x", "image_processor_type": "x", "auto_map": classes}))
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / HARM)!r})")
    asked = []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "y")
    with pytest.raises(SceditError, match="cannot be loaded"):
        annotator.loader(annotator.settings(), tmp_path, "cpu")
    assert asked == [] and not (tmp_path / HARM).exists()


def saved(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_transformers_make_nothing_up(tmp_path):
    from safetensors.torch import load_file, save_file

    annotator = conditions.find("seg").annotator("segformer")
    folder = save_weights(annotator, tmp_path) / annotator.weights[0]
    state = load_file(folder / "model.safetensors")
    state.pop("decode_head.classifier.bias")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SceditError, match=r"no complete Segformer.*: decode_head\.classifier\.bias is missing"):
        annotator.loader(annotator.settings(), tmp_path, "cpu")


@pytest.mark.parametrize("file", ["net.pth", "config.json", "model.safetensors"])
def test_local_copies_that_were_not_downloaded_are_told_as_such(tmp_path, file):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "net.pth").write_bytes(b"PK")
    (tmp_path / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(SceditError, match=f"{file} is a Git LFS pointer"):
        if file == "net.pth":
            weights.state_of(PLACE, tmp_path)
        else:
            weights.pretrained(None, "owner/nets", tmp_path)
