"""Every annotator that has weights, through its true loading and inference code, with random weights saved locally in
the layout of the hub; and pixel for pixel what the library, called directly, makes with the same files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scedit_cli import conditions
from scedit_cli.conditions import licences
from scedit_cli.conditions.detectors import detector
from scedit_cli.conditions.quiet import silent
from scedit_cli.conditions.registry import Annotator, Make
from scedit_cli.models.loading import quiet
from scedit_cli.utils.errors import SceditError
from tests.conditions.local_weights import save_weights
from tests.conditions.photos import astronaut

ALL = [each for kind in conditions.KINDS for each in conditions.annotators(kind) if each.weights]
EVERYTHING = {"points": 3, "confidence": 0, "stability": 0, "overlap": 1}  # what an untrained SAM is not sure of


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(autouse=True)
def accepting(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp()))
    for each in ALL:
        licences.accept(each)


def loaded(annotator: Annotator, weights: Path, **parameters) -> Make:
    """The annotator with local weights, saved by the first who asks; at the least resolution."""
    if not all((weights / place.replace(":", "/")).exists() for place in annotator.weights):
        save_weights(annotator, weights)
    least = {"resolution": 128} if "resolution" in annotator.parameters.model_fields else {}
    return annotator.load(annotator.settings(**least | parameters), weights)


def named(kind: str, name: str | None = None) -> Annotator:
    return conditions.find(kind).annotator(name)


@pytest.mark.parametrize("annotator", ALL, ids=lambda each: f"{each.kind}-{each.name}")
def test_it_runs(annotator, weights, capfd):
    make = loaded(annotator, weights, **EVERYTHING if annotator.name == "sam" else {})
    capfd.readouterr()
    pictures = [astronaut(128, 128), astronaut(200, 90)]
    together = make(pictures)
    assert capfd.readouterr() == ("", "")
    for picture, seen in zip(pictures, together, strict=True):
        assert seen.size == picture.size
        assert seen.mode in ("L", "RGB")
    if annotator.name != "openpose":  # slow, and sees nobody
        assert len(set(np.asarray(together[0]).flat)) > 1
        assert np.array_equal(make(pictures[1:])[0], together[1])


@pytest.mark.parametrize(
    ("kind", "by", "parameters", "module", "cls", "options"),
    [
        ("hed", "hed", {}, "hed", "HEDdetector", {}),
        ("hed", "hed", {"safe": True}, "hed", "HEDdetector", {"safe": True}),
        ("scribble", "hed", {}, "hed", "HEDdetector", {"scribble": True}),
        ("pidinet", "pidinet", {}, "pidi", "PidiNetDetector", {}),
        ("pidinet", "pidinet", {"safe": True}, "pidi", "PidiNetDetector", {"safe": True}),
        ("pidinet", "pidinet", {"filter": True}, "pidi", "PidiNetDetector", {"apply_filter": True}),
        ("scribble", "pidinet", {"safe": True}, "pidi", "PidiNetDetector", {"scribble": True, "safe": True}),
        ("lineart", "lineart", {}, "lineart", "LineartDetector", {}),
        ("lineart", "lineart", {"coarse": True}, "lineart", "LineartDetector", {"coarse": True}),
        ("lineart-anime", "anime2sketch", {}, "lineart_anime", "LineartAnimeDetector", {}),
        ("mlsd", "mlsd", {}, "mlsd", "MLSDdetector", {}),
        ("mlsd", "mlsd", {"score": 0.51, "distance": 3}, "mlsd", "MLSDdetector", {"thr_v": 0.51, "thr_d": 3}),
        ("normal", "bae", {}, "normalbae", "NormalBaeDetector", {}),
    ],
)
def test_controlnet_aux_makes_the_same(kind, by, parameters, module, cls, options, weights):
    make = loaded(named(kind, by), weights, **parameters)
    with silent():
        direct = getattr(detector(module), cls).from_pretrained(weights / "lllyasviel/Annotators")
        expected = direct(astronaut(128, 128), detect_resolution=128, image_resolution=128, **options)
    assert np.array_equal(make([astronaut(128, 128)])[0], expected)


def test_resolution_is_what_the_network_sees(weights):
    seen = []
    for resolution in (64, 128):
        make = loaded(named("hed"), weights, resolution=resolution)
        with silent():
            direct = detector("hed").HEDdetector.from_pretrained(weights / "lllyasviel/Annotators")
            expected = direct(astronaut(200, 150), detect_resolution=resolution, image_resolution=resolution)
        [picture] = make([astronaut(200, 150)])
        assert np.array_equal(picture, expected.resize((200, 150), Image.Resampling.BILINEAR))
        seen.append(np.asarray(picture))
    assert not np.array_equal(*seen)


def test_resized_scribbles_stay_black_and_white(weights):
    [picture] = loaded(named("scribble"), weights)([astronaut(201, 97)])
    assert set(np.asarray(picture).flat) <= {0, 255}


def test_no_line_is_a_black_picture_and_an_error_is_an_error(weights, monkeypatch):
    make = loaded(named("mlsd"), weights, score=1.0)
    assert not np.asarray(make([astronaut(128, 128)])[0]).any()

    def full(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(detector("mlsd.utils"), "pred_lines", full)
    with pytest.raises(RuntimeError, match="out of memory"):
        make([astronaut(128, 128)])


@pytest.mark.parametrize("name", ["depth-anything", "midas"])
def test_depth_is_transformers_stretched(name, weights):
    import transformers

    annotator = named("depth", name)
    [deep], [flat] = (loaded(annotator, weights, bits=bits)([astronaut(200, 90)]) for bits in (16, 8))
    with quiet():
        pipe = transformers.pipeline("depth-estimation", model=str(weights / annotator.weights[0]), device="cpu")
    found = pipe(astronaut(200, 90))["predicted_depth"].double().numpy()
    share = (found - found.min()) / (found.max() - found.min())
    assert (deep.mode, flat.mode) == ("I;16", "L")
    assert np.abs(np.asarray(deep) / 65535 - share).max() < 1e-4
    assert np.abs(np.asarray(flat) / 255 - share).max() <= 0.5 / 255 + 1e-4
    assert np.asarray(deep).min() == 0 and np.asarray(deep).max() == 65535


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("oneformer", "OneFormerForUniversalSegmentation"),
        ("mask2former", "Mask2FormerForUniversalSegmentation"),
        ("segformer", "SegformerForSemanticSegmentation"),
    ],
)
def test_seg_is_transformers_in_ade20ks_palette(name, model, weights):
    import transformers

    annotator = named("seg", name)
    pictures = [astronaut(200, 90), astronaut(90, 200)]
    made = loaded(annotator, weights)(pictures)
    folder = weights / annotator.weights[0]
    with quiet(), torch.inference_mode():
        network = getattr(transformers, model).from_pretrained(folder).eval()
        if name == "oneformer":
            images = transformers.OneFormerImageProcessor.from_pretrained(folder, class_info_file=None)
            words = transformers.CLIPTokenizer.from_pretrained(folder)
            task = words("the task is semantic", padding="max_length", max_length=77, return_tensors="pt")
            inputs = {"task_inputs": task.input_ids * task.attention_mask}
        else:
            images, inputs = transformers.AutoImageProcessor.from_pretrained(folder), {}
        for picture, ours in zip(pictures, made, strict=True):
            seen = images(images=[picture], return_tensors="pt")
            outputs = network(pixel_values=seen["pixel_values"], **inputs)
            sizes = [picture.size[::-1]]
            [classes] = images.post_process_semantic_segmentation(outputs, target_sizes=sizes)
            assert len(classes.unique()) > 1
            palette = np.array(detector("util").ade_palette(), np.uint8)
            assert np.array_equal(ours, palette[classes.numpy()])
    assert palette[[0, 2, 12]].tolist() == [[120, 120, 120], [6, 230, 230], [150, 5, 61]]  # wall, sky, person


def test_sam_paints_small_things_over_large_ones(weights):
    import transformers

    annotator = named("seg", "sam")
    [picture] = loaded(annotator, weights, **EVERYTHING)([astronaut(128, 128)])
    with quiet():
        pipe = transformers.pipeline("mask-generation", model=str(weights / annotator.weights[0]), device="cpu")
    found = pipe(
        astronaut(128, 128), points_per_crop=3, pred_iou_thresh=0, stability_score_thresh=0, crops_nms_thresh=1
    )
    masks = sorted((np.asarray(mask) for mask in found["masks"]), key=lambda mask: -mask.sum())
    assert len(masks) > 2
    palette = detector("util").ade_palette()
    expected = np.zeros((128, 128, 3), np.uint8)
    for mask, color in zip(masks, palette, strict=False):
        expected[mask] = color
    assert np.array_equal(picture, expected)
    strict = EVERYTHING | {"confidence": 1, "stability": 1}
    assert not np.asarray(loaded(annotator, weights, **strict)([astronaut(128, 128)])[0]).any()


def test_weights_of_other_classes_are_refused(tmp_path):
    import transformers

    annotator = named("seg", "segformer")
    folder = tmp_path / annotator.weights[0]
    config = transformers.SegformerConfig(
        num_labels=3, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2]
    )
    with quiet():
        transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
        transformers.SegformerImageProcessor().save_pretrained(folder)
    with pytest.raises(SceditError, match="3 classes, and ADE20K has 150"):
        annotator.load(annotator.settings(), tmp_path)


def test_one_detector_is_imported_quietly(weights):
    """Nothing is said, and of controlnet_aux and transformers only what is asked for is there."""
    make = loaded(named("hed"), weights)
    program = (
        "import sys; from pathlib import Path; from PIL import Image; from scedit_cli import conditions;"
        f"conditions.annotate('hed', Image.new('RGB', (64, 64)), weights=Path({str(weights)!r}), resolution=64);"
        "loaded = {name.rpartition('.')[2] for name in sys.modules if name.startswith('_scedit_controlnet_aux.')};"
        "assert loaded == {'hed', 'util'}, loaded;"
        "assert not {'timm', 'mediapipe', 'controlnet_aux', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert make
