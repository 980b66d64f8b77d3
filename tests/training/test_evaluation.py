from __future__ import annotations

import pytest
import torch
from PIL import Image

from scedit_cli.core.tuners import CSCTuner, SCTuner
from scedit_cli.inference.evaluation import Evaluator
from scedit_cli.inference.sampler import to_tensor
from scedit_cli.models.base import Base, Defaults, load_base
from scedit_cli.training import evaluation
from scedit_cli.training.datasets import held_out_scenes
from scedit_cli.utils.errors import SceditError
from tests.recorder import steps_to


@pytest.fixture(scope="module")
def base():
    return load_base()


@pytest.fixture
def tuners(base):
    return [CSCTuner.for_unet(base.unet, kind, hint_channels=16) for kind in ("canny", "color")]


def test_fresh_tuners_give_no_control(base, tuners, monkeypatch):
    monkeypatch.setattr(Base, "defaults", Defaults(128, 2, 3.0))
    told = []
    scores = evaluation.control_scores(base, tuners, scenes=2, reporter=steps_to(told.append))
    assert list(scores) == ["canny", "color"]
    for each in scores.values():
        assert each.with_ == each.without and each.scenes == 2
        assert 0 <= each.reconstruction <= 1
    assert told[-1][0] == told[-1][1] and [done for done, _ in told] == sorted(done for done, _ in told)


def test_conditions_of_scenes_are_made_where_no_network_is_needed(base, monkeypatch):
    """A hole that is filled as it was scores 1, without the renderer's having holes."""
    shown = [each.image for each in held_out_scenes(2, 0, (), 128)]
    black = [Image.new("RGB", (128, 128))] * 2
    monkeypatch.setattr(Evaluator, "drawn", lambda _, arm, *rest: black if arm.name == "without" else shown)
    tuner = CSCTuner.for_unet(base.unet, "inpaint", hint_channels=16, in_channels=4)
    score = evaluation.control_scores(base, [tuner], scenes=2)["inpaint"]
    assert (score.with_, score.score) == pytest.approx((1, 1)) and score.without < 0.6


def test_pictures_as_good_as_reconstructions_score_1(base, tuners, monkeypatch):
    def drawn(evaluator, arm, places, reporter=None):
        assert evaluator.images.numbers == (0, 1, 2) and places == [0, 1, 2]
        if arm.name == "without":
            return [Image.new("RGB", (128, 128), "black")] * 3
        assert arm.name == "reconstruction" or arm.scales == (0.5, 2.0)
        return real

    real = [shown.image for shown in held_out_scenes(3, 4, (), 128)]
    monkeypatch.setattr(Evaluator, "drawn", drawn)
    scores = evaluation.control_scores(base, tuners, [0.5, 2.0], scenes=3, seed=4)
    for each in scores.values():
        assert (each.with_, each.reconstruction, each.score) == pytest.approx((1, 1, 1)) and each.without < 0.9


def test_conditions_that_scenes_do_not_have_are_refused(base):
    with pytest.raises(SceditError, match="pose"):
        evaluation.control_scores(base, [CSCTuner.for_unet(base.unet, "pose", hint_channels=16)], scenes=1)


@pytest.mark.parametrize("look, nearer", [("pastel", 1.0), ("plain", 0.0)])
def test_renders_are_nearest_to_their_own_look(base, monkeypatch, look, nearer):
    renders = [shown.image for shown in held_out_scenes(8, 0, (), 128, look)]
    monkeypatch.setattr(evaluation, "sample", lambda *args, **options: renders)
    result = evaluation.style_score(base, SCTuner.for_unet(base.unet), "pastel", scenes=8)
    assert result.nearer == nearer and result.objects > 0.8 and result.scenes == 8


def test_text_is_scored_by_the_objects_it_names():
    shown = held_out_scenes(8, 0, (), 128)
    pictures = to_tensor([each.image for each in shown])
    assert evaluation.named_share([each.text for each in shown], pictures) > 0.8
    wrong = ["a purple cone on a gray floor" if "purple cone" not in each.text else "a red cube" for each in shown]
    assert evaluation.named_share(wrong, pictures) < 0.3


def test_scoring_leaves_the_base_as_it_was(base, tuners, monkeypatch):
    monkeypatch.setattr("scedit_cli.inference.evaluation.sample", lambda *args, **_: [Image.new("RGB", (128, 128))])
    before = {name: value.clone() for name, value in base.unet.state_dict().items()}
    evaluation.control_scores(base, tuners, scenes=1)
    assert all(torch.equal(value, before[name]) for name, value in base.unet.state_dict().items())
    assert not base.unet._forward_pre_hooks
