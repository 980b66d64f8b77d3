"""Files for other implementations, loaded strictly into modules built as those build theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scedit_cli import Bundle, CSCTuner, SceditError, SCTuner, load_tuner, merge, save_tuner
from scedit_cli.core.foreign.fitting import by_up_block, ratio_for, widened
from scedit_cli.core.foreign.writing import export
from scedit_cli.core.skips import survey
from tests import tiny

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def style(unet, trained) -> SCTuner:
    return trained(SCTuner.for_unet(unet, down_ratio=0.5))


@pytest.fixture
def canny(unet, trained) -> CSCTuner:
    return trained(CSCTuner.for_unet(unet, "canny", hint_channels=6, hint_kernel=3, hint_width=0.25), seed=5)


def linear(state: dict[str, Tensor], name: str, inward: int, outward: int) -> nn.Linear:
    """A linear layer of just this shape, with the tensors that `state` has for it taken out."""
    layer = nn.Linear(inward, outward)
    layer.load_state_dict({end: state.pop(f"{name}.{end}") for end in ("weight", "bias")})
    return layer


def edit(state: dict[str, Tensor], names: tuple[str, str], channels: int, hidden: int, x: Tensor) -> Tensor:
    """What a map of linear layers adds to the pixels x (N, channels)."""
    down, up = linear(state, names[0], channels, hidden), linear(state, names[1], hidden, channels)
    return up(F.gelu(down(x)))


def pixels(channels: int) -> Tensor:
    return torch.randn(9, channels, generator=torch.Generator().manual_seed(channels))


def ours(tuner: SCTuner, index: int) -> Tensor:
    return tuner(pixels(tuner.channels[index]).T[None, :, :, None], index)[0, :, :, 0].T


@torch.no_grad()
def check_swift(tuner: SCTuner, folder: Path, sites: list[str], adapter: str) -> None:
    """ms-swift makes modules of `dims` and `down_ratio` at the target modules in order, and loads them by name."""
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["swift_type"] == "SCETuning" and config["tuner_op"] == "SCEAdapter" and not config["hint_modules"]
    state = load_file(folder / "adapter_model.safetensors")
    for step, (site, width) in enumerate(zip(sites, config["dims"], strict=True)):
        index = len(sites) - 1 - step
        names = tuple(f"{site}.scetuner_{adapter}.tuner_op.{layer}" for layer in ("ln1", "ln2"))
        theirs = edit(state, names, width, int(width * config["down_ratio"]), pixels(width))
        torch.testing.assert_close(theirs, ours(tuner, index), rtol=0, atol=1e-5)
    assert not state


@pytest.mark.parametrize("ratios", [(1.0,), (0.5,), (0.3, 0.77), (1.0, 1.0, 0.1)])
def test_ms_swift_makes_the_same_edits_of_its_folder(unet, trained, tmp_path, ratios):
    tuner = merge([(trained(SCTuner.for_unet(unet, ratio), seed=i), 0.7) for i, ratio in enumerate(ratios)])
    save_tuner(tuner, tmp_path / "swift", format="ms-swift")
    sites = [
        name for name, _ in unet.named_modules() if name.count(".") == 3 and "up_blocks" in name and "resnets" in name
    ]
    check_swift(tuner, tmp_path / "swift" / "default", sites, "default")
    assert json.loads((tmp_path / "swift" / "configuration.json").read_text()) == {}
    assert {path.name for path in (tmp_path / "swift").rglob("*")} == {
        "default", "adapter_model.safetensors", "adapter_config.json", "configuration.json"
    }  # fmt: skip


def test_the_studio_makes_the_same_edits_of_its_folder(style, tmp_path):
    save_tuner(style, tmp_path / "studio", format="scepter")
    sites = [f"model.lsc_identity.{step}" for step in range(6)]
    check_swift(style, tmp_path / "studio" / "0_SwiftSCETuning", sites, "0_SwiftSCETuning")


@pytest.mark.parametrize(("ratio", "rank"), [(1.0, None), (0.5, None), (2.0, 64)])
def test_scedit_pytorch_makes_the_same_edits(unet, trained, tmp_path, ratio, rank):
    """It makes modules of one rank, else as wide as the skip."""
    tuner = trained(SCTuner.for_unet(unet, ratio))
    save_tuner(tuner, tmp_path / "theirs", format="scedit-pytorch")
    state = load_file(tmp_path / "theirs" / "pytorch_scedit_weights.safetensors")
    sites = [(int(site.enters[-1]), 1 - site.place) for site in reversed(survey(unet).sites)]  # two resnets a block
    for step, (block, k) in enumerate(sites):
        index = 5 - step
        names = tuple(f"up_blocks.{block}.sc_tuners.{k}.{layer}" for layer in ("down", "up"))
        width = tuner.channels[index]
        with torch.no_grad():
            theirs = edit(state, names, width, rank or width, pixels(width))
            torch.testing.assert_close(theirs, ours(tuner, index), rtol=0, atol=1e-5)
    assert not state
    notes = export(tuner, "scedit-pytorch").notes
    assert notes == ((f"in scedit-pytorch, call unet.set_sctuner(rank={rank}) before loading",) if rank else ())


@pytest.mark.parametrize("widths", [(16, 32, 96), (8, 16, 48), (3, 5, 7)])
@torch.no_grad()
def test_scepter_makes_the_same_hint_features_and_edits(unet, trained, hint, tmp_path, widths):
    strides = survey(unet).strides
    tuner = CSCTuner(
        survey(unet).channels, [5] * 6, condition="canny", hint_channels=6, hint_kernel=3, hint_widths=widths
    )
    trained(tuner)
    save_tuner(Bundle([tuner], [0.8]), tmp_path / "scepter", format="scepter")
    folder = tmp_path / "scepter" / "0_SwiftSCETuning"
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    config = json.loads((folder / "configuration.json").read_text())["CONTROL_MODEL"]
    assert (config["NAME"], config["SCALE"], config["DENSE_HINT_KERNAL"]) == ("CSCTuners", 0.8, 3)
    full, half, quarter = (int(width * config["PRE_HINT_DIM_RATIO"]) for width in (16, 32, 96))

    def convolution(name: str, inward: int, outward: int, stride: int) -> nn.Conv2d:
        layer = nn.Conv2d(inward, outward, 3, stride=stride, padding=1)
        layer.load_state_dict({end: state.pop(f"{name}.{end}") for end in ("weight", "bias")})
        return layer

    plan = [
        (full, 1),
        (full, 1),
        (half, 2),
        (half, 1),
        (quarter, 2),
        (quarter, 1),
        (config["PRE_HINT_OUT_CHANNELS"], 2),
    ]
    x, before = hint(), config["PRE_HINT_IN_CHANNELS"]
    for i, (width, stride) in enumerate(plan):
        x = convolution(f"pre_hint_blocks.{2 * i}", before, width, stride)(x if i == 0 else F.silu(x))
        before = width
    expected = tuner.encoder(hint(), strides)
    for i, (width, feature) in enumerate(zip(tuner.channels, expected, strict=True)):
        stride = strides[i] // strides[max(i - 1, 0)]
        x = convolution(f"dense_hint_blocks.{i}.1", before, width, stride)(F.silu(x))
        torch.testing.assert_close(x, feature, rtol=1e-5, atol=1e-5)
        before = width
    for step in range(6):
        index = 5 - step
        width = tuner.channels[index]
        names = tuple(f"lsc_tuner_blocks.{step}.tuner_op.{layer}" for layer in ("ln1", "ln2"))
        theirs = edit(state, names, width, int(width * config["DOWN_RATIO"]), pixels(width))
        skip = pixels(width).T[None, :, :, None]
        torch.testing.assert_close(theirs, tuner(skip, index, torch.zeros_like(skip))[0, :, :, 0].T, rtol=0, atol=1e-5)
    assert not state


@pytest.mark.parametrize("case", ["scepter_sc", "scepter_csc_k3", "scepter_multi_csc"])
def test_keys_are_those_of_the_official_files(case, tmp_path):
    content = load_file(GOLDEN / f"{case}.safetensors")
    official = {key: tensor for key, tensor in content.items() if "lsc_" in key or "_hint_" in key}
    save_file(official, tmp_path / "w.safetensors")
    tuner = load_tuner(tmp_path / "w.safetensors")
    for suffix in (".safetensors", ".bin"):
        again = save_tuner(tuner, tmp_path / f"again{suffix}", format="scepter", dtype=torch.float16)
        state = load_file(again) if suffix == ".safetensors" else torch.load(again, weights_only=True)
        assert state.keys() == official.keys()
        assert all(torch.equal(state[key], tensor) for key, tensor in official.items())


@pytest.mark.parametrize("place", ["w.safetensors", "w.bin", "w"])
@pytest.mark.parametrize("format", ["scepter", "ms-swift", "scedit-pytorch"])
def test_sc_tuners_come_back(style, tmp_path, place, format):
    loaded = load_tuner(save_tuner(style, tmp_path / place, format=format))
    assert type(loaded) is SCTuner
    for index in range(6):
        with torch.no_grad():
            torch.testing.assert_close(ours(loaded, index), ours(style, index), rtol=0, atol=1e-5)


def test_a_bundle_comes_back_from_a_file_and_from_its_folders(style, canny, trained, unet, tmp_path):
    depth = trained(CSCTuner.for_unet(unet, "depth", hint_channels=4), seed=6)
    save_tuner(Bundle([canny, style, depth]), tmp_path / "w.safetensors", format="scepter")
    loaded = load_tuner(tmp_path / "w.safetensors", condition=["canny", "depth"])
    assert [tuner.condition for tuner in loaded.tuners] == [None, "canny", "depth"] and loaded.scales == (1.0, 1.0, 1.0)
    save_tuner(Bundle([canny, style, depth], [0.5, 0.25, -2.0]), tmp_path / "w", format="scepter")
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == ["0_sc", "1_canny", "2_depth"]
    assert type(load_tuner(tmp_path / "w" / "0_sc")) is SCTuner
    assert load_tuner(tmp_path / "w" / "1_canny").scales == (0.5,)
    assert load_tuner(tmp_path / "w" / "2_depth").scales == (-2.0,)
    with pytest.raises(SceditError, match="several files: 0_sc/0_SwiftSCETuning/adapter_model.safetensors"):
        load_tuner(tmp_path / "w")


def test_no_name_of_a_condition_leads_out_of_the_folder(canny, style, tmp_path):
    canny.condition = "../../a b"
    save_tuner(Bundle([style, canny]), tmp_path / "w", format="scepter")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w"]
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == ["0_sc", "1_------a-b"]


@pytest.mark.parametrize(
    ("format", "name", "message"),
    [
        ("ms-swift", "w", "ms-swift has no CSC-Tuners, and the canny tuner is one"),
        ("scedit-pytorch", "w.bin", "scedit-pytorch has no CSC-Tuners"),
        ("scepter", "w.pt", "w.pt: a tuner of another program is a .safetensors or .bin file, or a folder"),
        ("comfy", "w", "format 'comfy': not known"),
    ],
)
def test_what_is_not_written(canny, tmp_path, format, name, message):
    with pytest.raises(SceditError, match=message):
        save_tuner(canny, tmp_path / name, format=format)
    assert not list(tmp_path.iterdir())


def test_what_scepter_cannot_say(canny, unet, tmp_path):
    with pytest.raises(SceditError, match="the canny tuner has the scale 0.5, which no file of scepter can say"):
        save_tuner(Bundle([canny], [0.5]), tmp_path / "w.safetensors", format="scepter")
    with pytest.raises(SceditError, match="a chain of 5×5 convolutions"):
        save_tuner(CSCTuner.for_unet(unet, "canny", hint_kernel=5), tmp_path / "w", format="scepter")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    with pytest.raises(SceditError, match="full exists already"):
        save_tuner(canny, tmp_path / "full", format="scepter")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_up_blocks_are_found_by_the_channels(family):
    skips = survey(tiny.unet(family))
    expected = [(block, k) for block, count in enumerate(skips.up_blocks) for k in range(count)]
    assert by_up_block(SCTuner(skips.channels)) == expected


def test_up_blocks_that_several_share_are_asked_for(trained, tmp_path):
    tuner = trained(SCTuner([8] * 6))  # one level of five resnets, two of two, or three of one
    with pytest.raises(SceditError, match="not known how the base's up blocks share the skips of 8×6 channels"):
        save_tuner(tuner, tmp_path / "w", format="ms-swift")
    tuner.up_blocks = (2, 4)
    assert load_tuner(save_tuner(tuner, tmp_path / "w", format="ms-swift")).up_blocks == (2, 4)
    for wrong in ((2, 2), (7, -1)):
        tuner.up_blocks = wrong
        with pytest.raises(SceditError, match="do not share 6 of them"):
            save_tuner(tuner, tmp_path / "x", format="scedit-pytorch")


@pytest.mark.parametrize(
    ("widths", "wanted", "ratio", "made"),
    [
        ((320, 640), (320, 640), 1.0, [320, 640]),
        ((320, 1280), (32, 128), 0.1, [32, 128]),
        ((16, 32, 96), (5, 10, 31), 0.33, [5, 10, 31]),
        ((320, 640), (640, 1280), 2.0, [640, 1280]),
        ((30, 60), (10, 20), 0.34, [10, 20]),
        ((320, 640), (64, 64), 0.2, [64, 128]),
        ((7, 11), (3, 3), 0.43, [3, 4]),
    ],
)
def test_the_shortest_ratio_that_leaves_nothing_out(widths, wanted, ratio, made):
    assert ratio_for(widths, wanted) == (ratio, made)
    assert [int(width * ratio) for width in widths] == made


def test_idle_units_give_nothing(style):
    wide = widened(style, hidden=[40] * 6)
    assert wide.hidden == (40,) * 6
    for index in range(6):
        with torch.no_grad():
            torch.testing.assert_close(ours(wide, index), ours(style, index), rtol=0, atol=1e-5)
