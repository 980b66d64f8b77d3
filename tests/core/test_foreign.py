"""Layouts of other implementations; that their numbers come out right is test_golden's."""

from __future__ import annotations

import json
import random

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
            state |= {
                f"{key}.weight": conv.weight.detach()[:, :, 0, 0].clone(),
                f"{key}.bias": conv.bias.detach().clone(),
            }
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
    "swift decoder": lambda m, layer: f"up_blocks.{m // 3}.resnets.{m % 3}.scetuner_default.tuner_op.{LAYERS[layer]}",
    "swift decoder in a pipeline": lambda m, layer: (
        f"unet.up_blocks.{m // 3}.resnets.{m % 3}.scetuner_a.tuner_op.{LAYERS[layer]}"
    ),
    "scedit-pytorch": lambda m, layer: f"up_blocks.{m // 3}.sc_tuners.{m % 3}.{layer}",
    "scedit-pytorch in a pipeline": lambda m, layer: f"unet.up_blocks.{m // 3}.sc_tuners.{m % 3}.{layer}",
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
    assert loaded.up_blocks == ((3, 3) if "up_blocks" in next(iter(state)) else None)
    assert same(loaded, sc)


@pytest.mark.parametrize("prefix", ["", "0.", "model.", "model.0.", "model.control_blocks.0."])
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


@pytest.mark.parametrize("hidden", [1, 5, 40])
@pytest.mark.parametrize("blocks", [(1, 1), (2, 4), (4, 3, 2)])
def test_sizes_come_from_the_shapes(trained, tmp_path, hidden, blocks):
    channels = [4 + 3 * i for i in range(sum(blocks))]
    tuner = trained(SCTuner(channels, [hidden + i % 2 for i in range(len(channels))]))
    sites = [(block, k) for block, count in enumerate(blocks) for k in range(count)]
    name = "up_blocks.{}.resnets.{}.scetuner_x.tuner_op.{}"
    save_file(sc_keys(tuner, lambda m, layer: name.format(*sites[m], LAYERS[layer])), tmp_path / "w.safetensors")
    loaded = load_tuner(tmp_path / "w.safetensors")
    assert loaded.sizes == tuner.sizes and same(loaded, tuner) and loaded.up_blocks == blocks


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("widths", [(16, 32, 96), (1, 1, 1), (9, 30, 11)])
def test_hint_encoders_of_any_size(trained, tmp_path, kernel, widths):
    sizes = {"in_channels": 4, "hint_channels": 7, "hint_kernel": kernel, "hint_widths": widths}
    tuner = trained(CSCTuner(CHANNELS, [3] * 6, condition="hint", **sizes))
    save_file(csc_keys(tuner, "0."), tmp_path / "w.safetensors")
    loaded = load_tuner(tmp_path / "w.safetensors")
    assert loaded.sizes == tuner.sizes and same(loaded, tuner)


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({"CONTROL_MODEL": [{"SCALE": 0.8}, {"SCALE": 1.5}]}, (0.8, 1.5)),
        ({"CONTROL_MODEL": [{"SCALE": 0.8}, {"NAME": "CSCTuners"}]}, (0.8, 1.0)),
        ({}, (1.0, 1.0)),
        ({"framework": "pytorch"}, (1.0, 1.0)),
        ([], (1.0, 1.0)),
    ],
)
def test_scales_are_read_from_the_configuration(csc, trained, tmp_path, config, scales):
    other = trained(CSCTuner(CHANNELS, condition="hint2"), seed=8)
    save_file(csc_keys(csc, "0.") | csc_keys(other, "1."), tmp_path / "w.safetensors")
    (tmp_path / "configuration.json").write_text(json.dumps(config))
    assert load_tuner(tmp_path / "w.safetensors").scales == scales


@pytest.mark.parametrize("config", [{"CONTROL_MODEL": {"SCALE": 0.4}}, {"NAME": "CSCTuners", "SCALE": 0.4}])
def test_the_studios_folder(csc, tmp_path, config):
    folder = tmp_path / "0_SwiftSCETuning"
    folder.mkdir()
    torch.save(csc_keys(csc, "model.0."), folder / "pytorch_model.bin")
    (folder / "configuration.json").write_text(json.dumps(config))
    for place in (tmp_path, folder, folder / "pytorch_model.bin"):
        loaded = load_tuner(place, condition="canny")
        assert isinstance(loaded, Bundle) and loaded.scales == (0.4,)
        assert loaded.tuners[0].condition == "canny" and same(loaded.tuners[0], csc)
    (folder / "configuration.json").write_text(json.dumps({"CONTROL_MODEL": {"SCALE": 1.0}}))
    assert type(load_tuner(folder)) is CSCTuner


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "configuration.json cannot be read as JSON"),
        ('{"CONTROL_MODEL": [{}, {}]}', "gives no scale to each of the 1 tuners of w.safetensors"),
        ('{"CONTROL_MODEL": {"SCALE": "much"}}', "configuration.json: CONTROL_MODEL gives no scale"),
        ('{"CONTROL_MODEL": 3}', "configuration.json: CONTROL_MODEL gives no scale"),
    ],
)
def test_configurations_that_say_something_else(csc, tmp_path, config, message):
    save_file(csc_keys(csc, "0."), tmp_path / "w.safetensors")
    (tmp_path / "configuration.json").write_text(config)
    with pytest.raises(SceditError, match=message):
        load_tuner(tmp_path / "w.safetensors")


def test_what_edits_the_main_path_is_refused(sc, tmp_path):
    encoder = {"down_blocks.0.attentions.0.scetuner_default.tuner_op.ln1.weight": torch.zeros(4, 4)}
    save_file(encoder, tmp_path / "w.safetensors")
    with pytest.raises(SceditError, match="encoder mode: it edits the main path, at down_blocks.0.attentions.0"):
        load_tuner(tmp_path / "w.safetensors")
    save_file(sc_keys(sc, SC_LAYOUTS["swift decoder"]), tmp_path / "w.safetensors")
    for mode in ("decoder", "encoder"):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"tuner_mode": mode}))
        if mode == "decoder":
            assert same(load_tuner(tmp_path / "w.safetensors"), sc)
        else:
            with pytest.raises(SceditError, match="encoder mode: .* at the up blocks' resnets, and not the skips"):
                load_tuner(tmp_path / "w.safetensors")


def test_what_is_no_sum_of_edits_is_refused(sc, tmp_path):
    two = sc_keys(sc, SC_LAYOUTS["swift decoder"]) | sc_keys(sc, SC_LAYOUTS["swift decoder in a pipeline"])
    save_file(two, tmp_path / "w.safetensors")
    with pytest.raises(SceditError, match=r"several SC-Tuners \(a and default\)"):
        load_tuner(tmp_path / "w.safetensors")
    two = sc_keys(sc, SC_LAYOUTS["scepter"]) | sc_keys(sc, SC_LAYOUTS["scedit-pytorch"])
    save_file(two, tmp_path / "w.safetensors")
    with pytest.raises(SceditError, match=r"several SC-Tuners \(scedit-pytorch and scepter\)"):
        load_tuner(tmp_path / "w.safetensors")
    save_file({"up_blocks.0.sc_tuners.0.model.0.weight": torch.zeros(4, 4)}, tmp_path / "w.safetensors")
    with pytest.raises(SceditError, match="three layers .*SCTunerLinearLayer2"):
        load_tuner(tmp_path / "w.safetensors")


def test_a_hint_encoder_must_be_there(csc, tmp_path):
    save_file({k: v for k, v in csc_keys(csc, "0.").items() if "lsc_" in k}, tmp_path / "w.safetensors")
    with pytest.raises(SceditError, match="lacks weights of its tuner: encoder.stem.0.weight"):
        load_tuner(tmp_path / "w.safetensors")


def test_maps_of_no_sensible_shape(sc, tmp_path):
    state = sc_keys(sc, SC_LAYOUTS["scepter"])
    state["model.lsc_identity.2.tuner_op.ln1.weight"] = torch.zeros(5)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(SceditError, match=r"lacks weights of its tuner: maps.3.down.weight is of shape \(5,\)"):
        load_tuner(tmp_path / "w.safetensors")


def test_damaged_bins_are_a_sentence(sc, tmp_path):
    """Whatever bytes a .bin file holds, it is loaded or refused."""
    torch.save(sc_keys(sc, SC_LAYOUTS["scepter"]), tmp_path / "w.bin")
    whole, draw = (tmp_path / "w.bin").read_bytes(), random.Random(0)
    for trial in range(60):
        damaged = bytearray(whole[: draw.randrange(len(whole))] if trial % 2 else whole)
        for _ in range(draw.randrange(1, 30)):
            if damaged:
                damaged[draw.randrange(min(len(damaged), 3000))] = draw.randrange(256)
        (tmp_path / "w.bin").write_bytes(damaged)
        try:
            load_tuner(tmp_path / "w.bin")
        except SceditError as error:
            assert "w.bin" in error.message and error.hint
