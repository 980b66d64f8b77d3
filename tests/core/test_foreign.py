"""Layouts of other implementations; that their numbers come out right is test_golden's."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from scedit_cli import Bundle, CSCTuner, SceditError, SCTuner, load_tuner

CHANNELS = (8, 8, 12, 12, 16, 16)  # of two up blocks with three resnets each
LAYERS = {"down": "ln1", "up": "ln2"}


def sc_keys(tuner: SCTuner, name) -> dict[str, torch.Tensor]:
    """The tuner's maps as linear layers, under `name(decoder site, "down" or "up")`."""
    state = {}
    for i, each in enumerate(tuner.maps):
        for layer in ("down", "up"):
            key, conv = name(len(tuner.maps) - 1 - i, layer), getattr(each, layer)
            state |= {f"{key}.weight": conv.weight.detach()[:, :, 0, 0].clone(), f"{key}.bias": conv.bias.detach()}
    return state


def csc_keys(tuner: CSCTuner, prefix: str) -> dict[str, torch.Tensor]:
    state = sc_keys(tuner, lambda m, layer: f"{prefix}lsc_tuner_blocks.{m}.tuner_op.{LAYERS[layer]}")
    for key, value in tuner.encoder.state_dict().items():
        part, number, end = key.split(".")
        middle = f"pre_hint_blocks.{number}" if part == "stem" else f"dense_hint_blocks.{number}.1"
        state[f"{prefix}{middle}.{end}"] = value
    return state


SC_LAYOUTS = {
    "scepter": lambda m, layer: f"model.lsc_identity.{m}.tuner_op.{LAYERS[layer]}",
    "scepter, bare": lambda m, layer: f"lsc_identity.{m}.tuner_op.{LAYERS[layer]}",
    "swift identity": lambda m, layer: f"model.lsc_identity.{m}.scetuner_0_SwiftSCE.tuner_op.{LAYERS[layer]}",
    "swift decoder": lambda m, layer: (
        f"up_blocks.{m // 3}.resnets.{m % 3}.scetuner_default.tuner_op.{LAYERS[layer]}"
    ),
    "scedit-pytorch": lambda m, layer: f"up_blocks.{m // 3}.sc_tuners.{m % 3}.{layer}",
}


@pytest.fixture
def sc(trained) -> SCTuner:
    return trained(SCTuner(CHANNELS, [c // 2 for c in CHANNELS]))


@pytest.fixture
def csc(trained) -> CSCTuner:
    sizes = {"in_channels": 1, "hint_channels": 10, "hint_kernel": 3, "hint_widths": (2, 5, 7)}
    return trained(CSCTuner(CHANNELS, condition="hint", **sizes))


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("layout", SC_LAYOUTS)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_sc_layouts(sc, tmp_path, layout, suffix):
    file, state = tmp_path / f"weights{suffix}", sc_keys(sc, SC_LAYOUTS[layout])
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    loaded = load_tuner(file)
    assert type(loaded) is SCTuner and loaded.sizes == sc.sizes
    assert same(loaded, sc)


@pytest.mark.parametrize("prefix", ["", "0.", "model.", "model.0."])
def test_csc_prefixes(csc, tmp_path, prefix):
    save_file(csc_keys(csc, prefix), tmp_path / "weights.safetensors")
    loaded = load_tuner(tmp_path / "weights.safetensors")
    assert type(loaded) is CSCTuner and loaded.condition == "hint"
    assert loaded.sizes == csc.sizes
    assert same(loaded, csc)


def test_several_conditions_make_a_bundle(sc, csc, trained, tmp_path):
    other = trained(CSCTuner(CHANNELS, condition="hint2"), seed=8)
    save_file(
        sc_keys(sc, SC_LAYOUTS["scepter"]) | csc_keys(csc, "0.") | csc_keys(other, "1."), tmp_path / "w.safetensors"
    )
    loaded = load_tuner(tmp_path / "w.safetensors")
    assert isinstance(loaded, Bundle) and loaded.scales == (1.0, 1.0, 1.0)
    assert [tuner.condition for tuner in loaded.tuners] == [None, "hint", "hint2"]
    assert all(same(a, b) for a, b in zip(loaded.tuners, [sc, csc, other], strict=True))
    named = load_tuner(tmp_path / "w.safetensors", condition=["canny", "depth"])
    assert [tuner.condition for tuner in named.tuners] == [None, "canny", "depth"]
    with pytest.raises(SceditError, match="holds 2 CSC-Tuners, condition= names 1"):
        load_tuner(tmp_path / "w.safetensors", condition="canny")


def test_condition_names_a_foreign_tuner(csc, tmp_path):
    save_file(csc_keys(csc, "0."), tmp_path / "w.safetensors")
    assert load_tuner(tmp_path / "w.safetensors", condition="depth").condition == "depth"


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("0.lsc_tuner_blocks.2.tuner_op.ln2.bias", "missing maps.3.up.bias"),
        ("0.lsc_tuner_blocks.2.", "has no map for decoder step 2"),
        ("0.lsc_tuner_blocks.5.", "unexpected encoder.chain.5"),
        ("0.lsc_tuner_blocks.", "lacks weights of its tuner: there is no map of a skip"),
        ("0.pre_hint_blocks.4.weight", "lacks weights of its tuner.*encoder.stem.4.weight"),
        ("0.dense_hint_blocks.0.", "lacks weights of its tuner.*encoder.chain.0.weight"),
        ("0.dense_hint_blocks.3.", "missing encoder.chain.3"),
    ],
)
def test_incomplete_files_are_refused(csc, tmp_path, drop, message):
    state = {key: value for key, value in csc_keys(csc, "0.").items() if not key.startswith(drop)}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(SceditError, match=message):
        load_tuner(tmp_path / "w.safetensors")


def test_strange_keys_beside_a_tuner_are_refused(sc, tmp_path):
    state = sc_keys(sc, SC_LAYOUTS["scepter"]) | {"model.extra.weight": torch.zeros(1)}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(SceditError, match="holds 'model.extra.weight'"):
        load_tuner(tmp_path / "w.safetensors")
