"""The measurement of an exported U-Net with a tuner beside the U-Net alone; its seconds are not tested."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scedit_cli.benchmark import architecture, exported
from tests import tiny

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """An architecture of few operators under a known name, since exporting takes its time for each."""
    shape = architecture.Architecture("sd15", dict(tiny.one_block().config), torch.ones(1000), "epsilon")
    monkeypatch.setattr(architecture, "architecture", lambda name: shape)


def test_both_graphs_run_in_turns_and_differ_by_the_tuner(monkeypatch, capsys):
    outputs, inputs = [], []
    real = exported._session

    class Session:
        def __init__(self, file):
            self.session = real(file)

        def get_inputs(self):
            return self.session.get_inputs()

        def run(self, names, given):
            inputs.append(given)
            outputs.append(self.session.run(names, given)[0])

    monkeypatch.setattr(exported, "_session", Session)
    assert exported.main(["--resolution", "64", "--pairs", "3", "--batch", "2"]) == 0
    told = capsys.readouterr().out
    assert "medians of 3 pairs taken in turns, processor seconds on one thread" in told
    assert len(outputs) == 8
    for bare, tuned in zip(inputs[::2], inputs[1::2], strict=True):
        assert tuned.keys() - bare.keys() == {"hint_canny", "scale_canny"}
        assert tuned["sample"].shape == (2, 4, 8, 8) and tuned["hint_canny"].shape == (2, 3, 64, 64)
    assert np.array_equal(outputs[0], outputs[2]) and np.abs(outputs[0] - outputs[1]).max() > 1e-4


def test_ratios_are_those_of_pairs():
    pairs = exported.StepPairs((1.0, 2.0, 4.0), (1.1, 2.0, 4.8))
    assert pairs.ratios == [1.1, 1.0, 1.2]
    assert "ratio 1.100 (quartiles 1.000 to 1.200; of the fastest steps 1.100)" in str(pairs)
