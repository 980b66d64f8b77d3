"""Estimates with what programs hold besides a step's tensors, and on quantised and offloaded bases."""

from __future__ import annotations

import pytest

from scedit_cli.benchmark.architecture import architecture
from scedit_cli.benchmark.beside import Loop, held
from scedit_cli.benchmark.estimate import peak
from scedit_cli.benchmark.methods import Options, prepared
from scedit_cli.benchmark.modes import check_storage
from scedit_cli.models.base import load_base
from scedit_cli.utils.errors import SceditError
from tests import tiny

SMALL = Options(hint_channels=8, hint_width=0.25)


@pytest.fixture(scope="module")
def base():
    return architecture(str(tiny.pipeline_folder(tiny.SMALLEST)))


def test_encoders_in_the_loop_are_held_with_their_weights():
    base = architecture(str(tiny.pipeline_folder("sd15")))
    alone = held("sc", base, 1, 64, "fp32", options=SMALL)
    found = held("sc", base, 1, 64, "fp32", Loop(("vae", "text"), matrices=True), options=SMALL)
    real = load_base(base.name)
    for name, part in (("vae", real.vae), ("text", real.pipeline().text_encoder)):
        assert name not in alone and found[name] == sum(
            each.nbytes for each in (*part.parameters(), *part.buffers())
        )  # fmt: skip
    assert found["weights"] == alone["weights"] and found["activations"] > alone["activations"], "matrices are kept"
    assert alone["reserve"] >= 0 and sum(alone.values()) % 2**21 == 0, "segments are whole"
    step = peak("sc", base, 1, 64, "fp32", options=SMALL)
    assert sum(alone.values()) - alone["reserve"] == pytest.approx(sum(step.values()), rel=0.05)


def test_stored_and_offloaded_weights_are_estimated(base):
    whole, four, away, both = (
        peak("sc-checkpoint", base, 1, 64, "bf16", options=options)["weights"]
        for options in (
            Options(), Options(quantize="int4"), Options(offload=True), Options(quantize="int4", offload=True)
        )
    )  # fmt: skip
    assert both < four < whole and away < whole


def test_methods_say_why_they_cannot(base):
    for method, options in (
        ("full", Options(quantize="int4")), ("controlnet-xs", Options(quantize="int8")), ("lora", Options(offload=True))
    ):  # fmt: skip
        with pytest.raises(ValueError, match="cannot be"), prepared(method, base.on_meta(), options):
            pass


@pytest.mark.parametrize(
    ("given", "field"),
    [(("int3", "none", ()), "quantize"), (("none", "all", ()), "offload"), (("none", "none", ["x"]), "beside")],
)
def test_an_unknown_storage_is_told(given, field):
    with pytest.raises(SceditError, match="not known") as told:
        check_storage(*given)
    assert told.value.field == field
    check_storage("nf4", "encoder", ("vae", "text", "reserve"))
