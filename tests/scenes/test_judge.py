"""What the embedded base draws, measured on few scenes."""

from __future__ import annotations

import pytest
import torch

from scedit_cli.models.base import load_base
from scedit_cli.scenes.build import judge

SCENES = 16


@pytest.fixture(scope="module")
def found() -> dict[str, judge.DrawnQuality]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "_STEPS", 10)
        patch.setattr(judge, "_FROM", (199, 599))  # timesteps of those ten steps too
        return judge.judged(load_base("scenes"), SCENES)


def test_renders_are_the_limit(found):
    renders, through, *_, drawn = found.values()
    assert min(renders.objects, renders.confusable) > 0.95 and renders.gradients == 1 and renders.frechet < 1e-6
    assert renders.frechet < through.frechet < drawn.frechet
    assert 0.7 < through.gradients < 1 and through.objects > 0.9
    assert 0.7 < drawn.objects < 1 and 0.6 < drawn.gradients < 1.1


def test_other_scenes_are_read_by_their_own_captions(found):
    others = found[judge.OTHERS]
    assert others.objects > 0.9 and others.frechet > found["through the autoencoder"].frechet


def test_the_more_noise_the_less_is_left(found):
    drawn = [each for name, each in found.items() if name.startswith("drawn")]
    distances = [each.frechet for each in (found["through the autoencoder"], *drawn)]
    assert len(drawn) == 3 and distances == sorted(distances)


def test_without_noise_latents_stay_and_with_all_of_it_they_are_drawn():
    base = load_base("scenes")
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    errors = [
        (judge.redrawn(base, ["a red cube"] * 2, latents, timestep, 1.0) - latents).square().mean().sqrt().item()
        for timestep in (48, 199, 999)
    ]
    assert errors[0] < 0.3 and errors == sorted(errors) and errors[2] > 1


def test_a_blurred_decoder_shows_in_the_gradients(found, monkeypatch):
    monkeypatch.setattr(judge, "_FROM", ())
    monkeypatch.setattr(judge, "_STEPS", 1)
    base = load_base("scenes")
    decode = base.decode
    base.decode = lambda latents: torch.nn.functional.avg_pool2d(decode(latents), 5, 1, 2, count_include_pad=False)
    through = judge.judged(base, SCENES)["through the autoencoder"]
    assert through.gradients < 0.5 * found["through the autoencoder"].gradients


def test_the_program_prints_a_table(found, monkeypatch, capsys):
    monkeypatch.setattr(judge, "judged", lambda base, scenes, guidance: found)
    assert judge.main(["--scenes", "16"]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.count("|") == 6 and [row.split("|")[1].strip() for row in rows] == list(found)
    assert rows[0].endswith("| 0.0 | 1.00 |")


@pytest.mark.parametrize(("given", "told"), [(["--scenes", "1"], "at least 16"), (["--base", "nowhere"], "nowhere")])
def test_bad_input_is_told(given, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        judge.main(given)
    assert stopped.value.code == 2 and told in capsys.readouterr().err.splitlines()[-1]
