"""The papers' figures equal torchmetrics' and the reference formulas on fixed images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.classification import BinaryF1Score, MulticlassConfusionMatrix
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure
from torchmetrics.regression import MeanSquaredError

from scedit_cli.conditions.annotation_spec import AnnotationSpec
from scedit_cli.conditions.consistency import papers
from scedit_cli.conditions.protocols import find_protocol
from scedit_cli.utils.errors import SceditError

DRAW = np.random.default_rng(0)


def gray(side: int = 192) -> np.ndarray:
    coarse = Image.fromarray(DRAW.integers(0, 256, (side // 16, side // 16), np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


@pytest.fixture
def compared(monkeypatch):
    """compared(kind, found, wanted): the figures where the annotator gives `found`."""

    def compare(kind, found, wanted, by=None):
        protocol = find_protocol("controlnet++")
        measure = protocol.measures[kind](by or "any")
        return measure.compare(*(Image.fromarray(each) for each in (found, wanted)))

    return compare


def test_edges_are_compared_pixel_by_pixel(compared):
    found, wanted = (np.where(gray() > 128, 255, 0).astype(np.uint8) for _ in range(2))
    score = BinaryF1Score()(torch.tensor(found > 0).flatten(), torch.tensor(wanted > 0).flatten()).item()
    assert compared("canny", found, wanted)["f1"] == pytest.approx(score, abs=1e-6)
    moved = np.roll(wanted, 1, 1)
    assert compared("canny", moved, wanted)["f1"] < 1  # the tolerant measure would give 1 for thin edges
    assert compared("canny", wanted * 0, wanted * 0)["f1"] == 0 and compared("canny", wanted, wanted)["f1"] == 1


@pytest.mark.parametrize("kind", ["hed", "lineart"])
def test_lines_are_compared_at_several_scales(compared, kind):
    found, wanted = gray(), gray()
    metric = MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0)
    score = metric(*(torch.tensor(each)[None, None] / 255 for each in (found, wanted))).item()
    near = np.clip(wanted.astype(int) + DRAW.integers(-9, 9, wanted.shape), 0, 255).astype(np.uint8)
    assert compared(kind, found, wanted)["ms_ssim"] == pytest.approx(score, abs=1e-6)
    assert compared(kind, near, wanted)["ms_ssim"] > max(score, 0.8)
    with pytest.raises(SceditError, match="128x128 pixels are too small for multi-scale SSIM .*161 pixels"):
        compared(kind, found[:128, :128], wanted[:128, :128])


def test_depth_is_compared_in_levels(compared):
    found, wanted = gray(), gray()
    score = MeanSquaredError(squared=False)(torch.tensor(found).float(), torch.tensor(wanted).float()).item()
    assert compared("depth", found, wanted)["rmse"] == pytest.approx(score, abs=1e-4, rel=1e-6)
    deep = Image.fromarray(wanted.astype(np.uint16) * 257)
    [figures] = [papers.LEVELS.compare(deep, Image.fromarray(wanted))]
    assert figures["rmse"] == pytest.approx(0, abs=1e-9)


def test_classes_are_counted_over_all_images():
    """The mean over classes of all images' pixels, without the first class, as mmsegmentation and ControlAR have it."""
    palette = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
    labels = [DRAW.integers(0, 4, (2, 16, 16)) for _ in range(6)]
    counts = np.stack([papers.class_counts(found, wanted, 3) for found, wanted in labels])
    matrix = MulticlassConfusionMatrix(4)
    for found, wanted in labels:
        matrix.update(torch.tensor(found), torch.tensor(wanted))
    known = matrix.compute().double()[1:]  # rows are the wanted classes: pixels of the first do not count
    both = known[:, 1:].diagonal()
    expected = (both / (known.sum(1) + known[:, 1:].sum(0) - both)).mean().item()
    assert papers.mean_iou(counts.mean(0)) == pytest.approx(expected, abs=1e-6)
    assert len(palette) == 4 and np.isnan(papers.mean_iou(np.zeros((3, 3))))


def test_ade20k_has_150_classes():
    measure = papers.seg_measure("ade20k")
    from scedit_cli.conditions.detectors import detector

    palette = np.array(detector("util").ade_palette(), np.uint8)
    picture = Image.fromarray(palette.reshape(10, 15, 3))
    figures = measure.compare(picture, picture)
    assert figures["mean_iou"] == 1 and len(figures["counts"]) == 450 and sum(figures["counts"][:150]) == 150


def test_a_protocol_measures_what_an_annotator_finds():
    image = Image.fromarray(np.stack([gray()] * 3, -1))
    spec = AnnotationSpec("canny", "opencv")
    [wanted] = spec.load(spec.settings(""))([image])
    for name, figure in (("scedit", "consistency"), ("controlnet++", "f1")):
        protocol = find_protocol(name)
        [figures] = protocol.measured([spec], [image], [wanted], "cpu")
        assert figures[protocol.figure("canny")] == 1
    with pytest.raises(SceditError, match="not known .choose one of scedit, controlnet"):
        find_protocol("ours")
