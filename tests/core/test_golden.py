"""The tuners against the numbers of other implementations; tests/golden/README.md says which."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from scedit_cli import attach, load_tuner
from scedit_cli.core.bundle import Bundle
from scedit_cli.core.tuners import Tuner

SHIPPED = Path(__file__).parents[1] / "golden"
COMPLETE = os.environ.get("SCEDIT_GOLDEN")
FACTS = json.loads((SHIPPED / "facts.json").read_text())
LEVELS = (32, 64, 128, 128)


def tuners_of(tuner: Tuner | Bundle) -> list[Tuner]:
    return list(tuner.tuners) if isinstance(tuner, Bundle) else [tuner]


def parameter_of(name: str, tuners: list[Tuner]) -> torch.nn.Parameter:
    """The parameter that another implementation calls `name`, found without the library's own translation."""
    sites = len(tuners[0].channels)
    end = name.rsplit(".", 1)[1]
    sc_count = sum(tuner.kind == "sc" for tuner in tuners)
    number = re.search(r"(?:^|\.)(\d+)\.(?:pre_hint|dense_hint|lsc_tuner)", name)
    tuner = tuners[sc_count + int(number[1])] if number else tuners[0]
    if found := re.search(r"pre_hint_blocks\.(\d+)", name):
        return tuner.get_parameter(f"encoder.stem.{found[1]}.{end}")
    if found := re.search(r"dense_hint_blocks\.(\d+)", name):
        return tuner.get_parameter(f"encoder.chain.{found[1]}.{end}")
    layer = "down" if re.search(r"\.(ln1|down)\.", name) else "up"
    if found := re.search(r"up_blocks\.(\d)\.\w+\.(\d)", name):
        site = 3 * int(found[1]) + int(found[2])
    else:
        site = int(re.search(r"(?:lsc_identity|lsc_tuner_blocks)\.(\d+)", name)[1])
    return tuner.get_parameter(f"maps.{sites - 1 - site}.{layer}.{end}")


class Replay:
    """A U-Net of random weights whose up blocks get given skips; `edited` is what arrives after the tuners."""

    def __init__(self, skips: list[torch.Tensor]) -> None:
        levels = len(skips) // 3
        kinds = ("CrossAttn",) * (levels - 1) + ("",)
        self.unet = UNet2DConditionModel(
            block_out_channels=LEVELS[:levels],
            cross_attention_dim=8,
            down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
            up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
        )
        self.unet.requires_grad_(False).to(skips[0].dtype)
        self.skips = skips
        self.edited: dict[int, torch.Tensor] = {}
        for b, block in enumerate(self.unet.up_blocks):
            block.register_forward_pre_hook(self._give(len(skips) - 3 * (b + 1)), with_kwargs=True)

    def _give(self, first: int):
        def hook(block, args, kwargs):
            return args, kwargs | {"res_hidden_states_tuple": tuple(self.skips[first : first + 3])}

        return hook

    def _take(self, first: int):
        def hook(block, args, kwargs):
            self.edited |= {first + j: skip for j, skip in enumerate(kwargs["res_hidden_states_tuple"])}

        return hook

    def __call__(self, tuners: list[Tuner], scales: list[float], hints: list[torch.Tensor]) -> list[torch.Tensor]:
        with attach(self.unet, tuners, scales) as edits:
            for b, block in enumerate(self.unet.up_blocks):
                block.register_forward_pre_hook(self._take(len(self.skips) - 3 * (b + 1)), with_kwargs=True)
            if hints:
                edits.set_hints(hints)
            latents = torch.zeros(2, 4, *self.skips[0].shape[-2:], dtype=self.skips[0].dtype)
            self.unet(latents, 0, torch.zeros(2, 1, 8, dtype=latents.dtype))
        return [self.edited[i] for i in range(len(self.skips))]


def shipped(case: str, size: str, tmp_path: Path, skip: str = "skip"):
    """The tuners of a shipped case, read from a file in scepter's layout, its inputs and its outputs."""
    inputs, content = load_file(SHIPPED / "inputs.safetensors"), load_file(SHIPPED / f"{case}.safetensors")
    weights = {key: value for key, value in content.items() if not re.match(r"\d+x\d+\.", key)}
    save_file(weights, tmp_path / "weights.safetensors")
    tuners = tuners_of(load_tuner(tmp_path / "weights.safetensors"))
    if case == "scepter_sc_csc":
        tuners = shipped("scepter_sc", size, tmp_path)[0] + tuners
    skips = [inputs[f"{size}.{skip}.{i}"] for i in range(FACTS[case]["skips"])]
    count = sum(tuner.kind == "csc" for tuner in tuners)
    hints = [inputs[f"{size}.hint.{j}"].to(skips[0].dtype) for j in range(count)]
    return tuners, skips, hints, content


@pytest.mark.parametrize(
    ("case", "size"),
    [
        ("scepter_sc", "8x8"),
        ("scepter_sc", "8x12"),
        ("scepter_csc_k3", "8x12"),
        ("scepter_multi_csc", "8x8"),
        ("scepter_sc_csc", "8x8"),
    ],
)
def test_edited_skips_are_scepters(case, size, tmp_path):
    """To 2e-6 of a skip's largest value: these random weights make skips of up to 52, where float32 itself, scepter's
    as much as ours, is 4e-5 away from float64. The U-Net's outputs, of the order of 1, agree to 1e-5 (below)."""
    tuners, skips, hints, content = shipped(case, size, tmp_path)
    with torch.no_grad():
        edited = Replay(skips)(tuners, FACTS[case]["scales"], hints)
    for i, skip in enumerate(edited):
        assert (skip - skips[i]).abs().max() > 1e-3
        expected = content[f"{size}.edited.{i}"]
        torch.testing.assert_close(skip, expected, rtol=0, atol=2e-6 * expected.abs().max().item())


@pytest.mark.parametrize("case", ["scepter_sc", "scepter_sc_csc"])
def test_float64_edits_and_gradients_are_scepters(case, tmp_path):
    tuners, skips, hints, content = shipped(case, "8x8", tmp_path, skip="skip64")
    tuners = [tuner.double() for tuner in tuners]
    edited = Replay(skips)(tuners, FACTS[case]["scales"], hints)
    products = [(skip * content[f"8x8.cotangent.{i}"]).sum() for i, skip in enumerate(edited)]
    assert [each.item() for each in products] == pytest.approx(FACTS[case]["projections"], rel=1e-10, abs=1e-14)
    sum(products).backward()
    norms = FACTS[case]["gradient_norms"]
    assert len(norms) == sum(len(list(tuner.parameters())) for tuner in tuners)
    for name, norm in norms.items():
        assert parameter_of(name, tuners).grad.norm().item() == pytest.approx(norm, rel=1e-10), name


complete = pytest.mark.skipif(COMPLETE is None, reason="SCEDIT_GOLDEN names no folder with the complete set")
CASES = [
    *((case, io, None) for case in ("scepter_sc", "scepter_csc_k1", "scepter_csc_k3") for io in ("io", "io_64x96")),
    *((case, io, None) for case in ("swift_sc_decoder", "mkshing_sc") for io in ("io", "io_64x96")),
    *(("swift_sc_identity_scepter", io, None) for io in ("io", "io_64x96")),
    ("scepter_sc", "io_tuner_scale_0.7", [0.7]),
    ("scepter_csc_k1", "io_control_scale_0.5", [0.5]),
    ("scepter_csc_k3", "io_control_scale_0.5", [0.5]),
    ("scepter_multi_csc", "io", [0.8 * 0.6, 0.35 * 0.6]),
    ("scepter_multi_csc", "io_shared_hint", [0.8 * 0.6, 0.35 * 0.6]),
    ("scepter_sc_csc", "io", [0.7, 1.0]),
    ("scepter_sc_csc", "io_tuner_scale_1.5", [1.5, 1.0]),
]


@pytest.fixture(scope="module")
def reference_unet() -> dict[torch.dtype, UNet2DConditionModel]:
    unet = UNet2DConditionModel.from_pretrained(Path(COMPLETE) / "unet_diffusers").requires_grad_(False)
    return {torch.float32: unet, torch.float64: copy.deepcopy(unet).double()}


@complete
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("case", "io", "scales"), CASES)
def test_whole_unet(case, io, scales, dtype, reference_unet):
    folder, unet = Path(COMPLETE) / case, reference_unet[dtype]
    inputs = load_file(folder / f"{io}.safetensors")
    tuner = load_tuner(folder / "weights.safetensors").to(dtype)
    count = sum(each.kind == "csc" for each in tuners_of(tuner))
    hints = [inputs[key].to(dtype) for key in sorted(inputs) if key.startswith("hint")]
    with attach(unet, tuner, scales) as edits:
        if count:
            edits.set_hints(hints if len(hints) == count else hints * count)
        context = inputs["encoder_hidden_states"].to(dtype)
        output = unet(inputs["sample"].to(dtype), inputs["timestep"], context).sample
    if dtype == torch.float32:
        torch.testing.assert_close(output, inputs["output"], rtol=0, atol=1e-5)
        return
    torch.testing.assert_close(output, inputs["output_f64"], rtol=0, atol=1e-10)
    gradients = folder / f"grads_{io}.json"
    if gradients.exists():
        facts = json.loads(gradients.read_text())
        loss = F.mse_loss(output, inputs["target"].double())
        loss.backward()
        assert loss.item() == pytest.approx(facts["loss"], rel=1e-10)
        for name, norm in facts["grad_l2_norm"].items():
            assert parameter_of(name, tuners_of(tuner)).grad.norm().item() == pytest.approx(norm, rel=1e-10), name
