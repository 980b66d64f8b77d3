"""The images of an evaluation, and who made their conditions."""

from __future__ import annotations

from scedit_cli.data.dataset import open_dataset
from scedit_cli.data.evaluation_set import evaluation_set
from scedit_cli.data.scenes import write_scenes
from scedit_cli.jobs.annotate import annotate


def test_conditions_are_read_by_the_annotator_that_made_them_with_the_given_weights(tmp_path):
    write_scenes(tmp_path / "set", 2, size=64, kinds=())
    annotate(tmp_path / "set", ["canny"], low=37)
    (tmp_path / "weights").mkdir()
    images = evaluation_set(open_dataset(tmp_path / "set"), ["canny"], weights=tmp_path / "weights")
    for maker in images.makers("canny", range(2)):
        assert dict(maker.values)["low"] == 37 and maker.weights == tmp_path / "weights"
