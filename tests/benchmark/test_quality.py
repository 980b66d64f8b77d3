from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from PIL import Image

from scedit_cli.benchmark import quality, skips
from scedit_cli.benchmark.evaluation import Evaluation
from scedit_cli.benchmark.quality import BenchmarkResult, Budget, rate_of, summed_up
from scedit_cli.benchmark.skips import changed, changes, study_skips
from scedit_cli.core.skips import survey
from scedit_cli.inference.frechet import frechet_distance
from scedit_cli.models.base import Base, Defaults, load_base
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.result_cache import ResultCache
from tests import tiny
from tests.jobs.bench.conftest import bench
from tests.recorder import Note, Progress, Recorder, steps_to


def test_frechet_distance_of_gaussians():
    torch.manual_seed(0)
    real = torch.randn(4000, 3, dtype=torch.float64)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(real + 2, real) == pytest.approx(12 / real.std(0).square().mean().item(), rel=0.02)
    assert frechet_distance(3 * real, real) == pytest.approx(3 * 4, rel=0.02)  # Σ (3 - 1)²
    mix = torch.tensor([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 2]], dtype=torch.float64)
    made = real @ mix
    scale = real.std(0)
    one, two = torch.cov((made / scale).T), torch.cov((real / scale).T)
    root = torch.linalg.eigvals(one @ two).real.clamp(min=0).sqrt().sum()
    mean = ((made.mean(0) - real.mean(0)) / scale).square().sum()
    assert frechet_distance(made, real) == pytest.approx((mean + one.trace() + two.trace() - 2 * root).item())


def test_rates_are_those_of_the_kind_unless_chosen():
    assert rate_of("sc-plain") == quality.RATES["sc"] and rate_of("controlnet-xs") == quality.RATES["controlnet-xs"]
    assert rate_of("csc-k3", {"csc-k3": 0.5}) == 0.5 and rate_of("lora-lean", {"lora": 0.25}) == 0.25


def test_outcomes_are_summed_up_over_seeds():
    rows = (1.0, 0.1, None, 0.5, 10.0), (3.0, 0.3, None, 0.7, 14.0)
    outcomes = [BenchmarkResult("steps", 4, *row) for row in rows]
    found = summed_up(outcomes)
    assert found["seconds"] == 2.0 and found["score"] is None and found["frechet"] == 12.0
    assert found["loss_deviation"] == pytest.approx(0.1 * 2**0.5) and "steps_deviation" not in found
    assert "loss_deviation" not in summed_up(outcomes[:1])


def test_trainings_that_predict_noise_refuse_a_base_of_flow(tmp_path):
    base = load_base(tiny.pipeline_folder(tiny.SMALLEST)).rescheduled("flow")
    with pytest.raises(SceditError, match="trained by flow matching, and these trainings predict noise"):
        Evaluation(base, 2, ResultCache(None))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Few pictures to learn from, rendered for this test; returns the call."""
    monkeypatch.setenv("SCEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(quality, "Budget", partial(Budget, pictures=8))
    monkeypatch.setattr(quality, "_TIMED", 1)
    monkeypatch.setattr(Base, "defaults", Defaults(128, 2, 2.0))
    return partial(bench, quality=True, batch=2, seeds=1, scenes=3, keep=tmp_path / "kept")


def test_methods_are_trained_for_the_same_steps_and_the_same_seconds(small, tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "paces", lambda methods, *_: {method: len(method) / 10 for method in methods})
    events = []
    result = small(
        methods=["sc", "csc", "controlnet-xs"], steps=2, seconds=0.9, learning_rates={"sc": 1e-4},
        plot=tmp_path / "quality.png", reporter=Recorder(events.append),
    )  # fmt: skip
    found = json.loads(json.dumps(result.document()["quality"]))
    assert list(found) == ["base", *(f"{m}, same {b}" for m in ("sc", "csc") for b in ("steps", "seconds"))]
    assert [found[f"sc, same {way}"]["steps"] for way in ("steps", "seconds")] == [2, 4]
    assert found["csc, same seconds"]["steps"] == 3 and found["csc, same seconds"]["seconds"] == pytest.approx(0.9)
    assert found["sc, same steps"]["learning_rate"] == 1e-4 and found["sc, same steps"]["score"] is None
    assert isinstance(found["csc, same steps"]["score"], float)
    assert all(each["loss"] > 0 and each["estimated_peak_memory"] > 0 for n, each in found.items() if n != "base")
    (note,) = (event.text for event in events if isinstance(event, Note))
    assert note.startswith("controlnet-xs cannot be had") and "two resnets a level" in note
    with Image.open(tmp_path / "quality.png") as picture:
        assert picture.width > 500


def test_a_stopped_comparison_goes_on(small, monkeypatch):
    def stop(event):
        if isinstance(event, Progress) and event.stage == "training csc, seed 0":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(methods=["sc", "csc"], steps=2, reporter=Recorder(stop))
    monkeypatch.setattr(quality, "peak_of", lambda *_: 1)
    begun = []
    begin = quality.training
    monkeypatch.setattr(quality, "training", lambda method, *rest: begun.append(method) or begin(method, *rest))
    assert list(small(methods=["sc", "csc"], steps=2).quality) == ["base", "sc, same steps", "csc, same steps"]
    assert begun == ["csc"]
    small(methods=["sc", "csc"], steps=2, learning_rates={"csc": 0.25})
    small(methods=["sc", "csc"], steps=2, down_ratio=0.5)
    assert begun == ["csc", "csc", "sc", "csc", "sc", "csc"]  # other settings: those timed anew, all trained again


def test_a_training_is_the_same_again(tmp_path, small, monkeypatch):
    monkeypatch.setattr(quality, "peak_of", lambda *_: 1)
    one, two = (
        small(methods=["sc"], steps=3, keep=tmp_path / place).quality["sc, same steps"]["loss"] for place in "ab"
    )
    assert one == two


def test_what_is_kept_is_found_for_the_same_alone(tmp_path):
    kept = ResultCache(tmp_path)
    kept.keep("sc-seed0", {"rate": 0.1}, {"loss": 1.5})
    for each in (kept, ResultCache(str(tmp_path))):
        assert each.find("sc-seed0", {"rate": 0.1}) == {"loss": 1.5}
    assert kept.find("sc-seed0", {"rate": 0.2}) is None is kept.find("sc-seed1", {"rate": 0.1})
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    assert kept.find("sc-seed0", {"rate": 0.1}) is None
    kept.keep("csc-seed0", {"beside": ("vae",)}, 2)
    assert kept.find("csc-seed0", {"beside": ("vae",)}) == 2
    ResultCache(None).keep("sc-seed0", {}, 1)
    assert ResultCache(None).find("sc-seed0", {}) is None


def test_what_is_kept_of_a_base_is_not_that_of_another_decoder(tmp_path):
    base, kept = load_base("scenes"), ResultCache(tmp_path)
    first = Evaluation(base, 2, kept).limits
    assert Evaluation(load_base("scenes"), 2, kept).limits == first
    with torch.no_grad():
        base.vae.decoder.conv_out.weight.mul_(0.5)
    assert Evaluation(base, 2, kept).limits.psnr < first.psnr - 3


@pytest.mark.parametrize("skip", [0, 4, 11])
def test_one_skip_is_changed_and_comes_back(skip):
    unet = tiny.unet("sd15")
    inputs = torch.randn(1, 4, 8, 8), 3, torch.randn(1, 5, tiny.TEXT_WIDTH)

    def taken() -> tuple[list[torch.Tensor], torch.Tensor]:
        """All skips as the decoder's blocks get them, in encoder order, and what comes out."""
        seen: list[torch.Tensor] = []

        def see(block, args, kwargs):
            seen.extend(reversed(kwargs["res_hidden_states_tuple"][-len(block.resnets) :]))

        handles = [block.register_forward_pre_hook(see, with_kwargs=True) for block in unet.up_blocks]
        answer = unet(*inputs).sample
        for handle in handles:
            handle.remove()
        return seen[::-1], answer

    with torch.no_grad():
        before, plain = taken()
        assert [each.shape[1] for each in before] == list(survey(unet).channels)
        with changed(unet, skip, lambda x: 3 * x):
            after, answer = taken()
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            assert torch.equal(other, 3 * one if number == skip else one), number
        assert not torch.equal(answer, plain) and torch.equal(taken()[1], plain)


def test_changes_are_what_they_say():
    x = 3 + 2 * torch.randn(1, 8, 16, 16)
    found = changes(scale=0.25, noise=0.5)
    assert list(found) == ["removed", "scaled by 0.25", "noised"]
    assert not found["removed"](x).any() and torch.equal(found["scaled by 0.25"](x), 0.25 * x)
    added = found["noised"](x) - x
    assert added.std().item() == pytest.approx(0.5 * x.std().item(), rel=0.1)
    assert torch.equal(added, found["noised"](x) - x)  # the same noise again


def test_a_study_of_any_base():
    from scedit_cli.models.base import load_base

    done = []
    effects, picture = study_skips(
        load_base(str(tiny.pipeline_folder("sdxl"))), 1, steps=1, reporter=steps_to(done.append)
    )
    assert [(each.skip, each.change) for each in effects] == [
        (skip, change) for change in ("removed", "scaled by 0.5", "noised") for skip in range(9)
    ]
    assert all(each.picture_change > 0 and each.objects is None for each in effects)
    assert done[-1] == (28, 28) and picture.width > 9 * 256


def test_a_study_says_what_it_cannot_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(skips, "study_skips", lambda *_, **__: ([], Image.new("RGB", (8, 8))))
    events = []
    base = str(tiny.pipeline_folder("sd15"))
    bench(skips=True, base=base, plot=tmp_path / "skips.png", reporter=Recorder(events.append))
    assert events == [Note("text agreement is not measured: only the embedded base has a reader of images")]


def test_skips_of_the_embedded_base(tmp_path):
    result = bench(skips=True, scenes=1, steps=1, plot=tmp_path / "skips.png")
    document = result.document()
    assert len(document["skips"]) == 3 * len(survey_of_embedded()) and 0 <= document["skips"][0]["objects"] <= 1
    assert (tmp_path / "skips.png").stat().st_size > 1000 and document["plot"].endswith("skips.png")
    assert len(result.tables()[0][1][1]) == len(document["skips"])


def survey_of_embedded() -> tuple[int, ...]:
    from scedit_cli.benchmark.architecture import architecture

    return survey(architecture("scenes").on_meta()).channels
