"""What the embedded base draws, measured on few scenes."""

from __future__ import annotations

import pytest
import torch

from scedit_cli.models.base import load_base
from scedit_cli.scenes.build import judge

SCENES = 16


@pytest.fixture(scope="module")
def found() -> dict[str, judge.DrawnQuality]:
    return judge.judged(load_base("scenes"), SCENES)


def test_renders_are_the_limit(found):
    renders, through, *_, drawn = found.values()
    assert min(renders.objects, renders.confusable) > 0.95 and renders.gradients == 1 and renders.frechet < 1e-6
    assert renders.frechet < through.frechet < drawn.frechet
    assert 0.7 < through.gradients < 1 and through.objects > 0.9
    assert 0.7 < drawn.objects < 1 and 0.6 < drawn.gradients < 1.1


def test_the_more_noise_the_less_is_left(found):
    steps = [each for name, each in found.items() if name.startswith("in one step from")]
    distances = [each.frechet for each in (found["through the autoencoder"], *steps)]
    assert len(steps) == 3 and distances == sorted(distances)
    assert [each.gradients for each in steps] == sorted((each.gradients for each in steps), reverse=True)


def test_latents_without_noise_stay():
    base = load_base("scenes")
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    errors = [
        (judge.denoised(base, ["a red cube"] * 2, latents, timestep) - latents).square().mean().sqrt().item()
        for timestep in (0, 999)
    ]
    assert errors[0] < 0.1 and errors[1] > 0.5


def test_a_blurred_decoder_shows_in_the_gradients(found):
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
