from __future__ import annotations

from scedit_cli.core.tuners import SCTuner
from scedit_cli.core.weights import save_tuner
from scedit_cli.generation import runner
from scedit_cli.models.base import load_base
from tests import tiny
from tests.jobs.drawn import draw
from tests.recorder import Note, Recorder


def test_pictures_are_sampled_as_the_tuner_was_taught(tmp_path, monkeypatch):
    base = load_base(tiny.pipeline_folder("sd15"))
    about = {"base_fingerprint": base.fingerprint, "prediction_type": "v_prediction", "zero_terminal_snr": "true"}
    tuner = tmp_path / "taught.safetensors"
    save_tuner(SCTuner.for_unet(base.unet), tuner, about)
    seen, original = [], runner.sample
    watched = lambda base, *args, **more: seen.append(base) or original(base, *args, **more)  # noqa: E731
    monkeypatch.setattr(runner, "sample", watched)
    for tuners in ([str(tuner)], []):
        draw(base=base.name, prompts=["a"], tuners=tuners, steps=1, out=tmp_path / "images", loaded=base)
    assert [each.prediction_type for each in seen] == ["v_prediction", "epsilon"]
    assert seen[0].scheduler.config.rescale_betas_zero_snr


def test_a_tuner_of_another_autoencoder_is_told(tmp_path):
    base = load_base(tiny.pipeline_folder("sd15"))
    save_tuner(SCTuner.for_unet(base.unet), tmp_path / "a.safetensors", {"base_vae": "theirs/vae"})
    events = []
    options = {"base": base.name, "tuners": [f"{tmp_path}/a.safetensors"], "steps": 1, "out": tmp_path / "images"}
    draw(**options, loaded=base, reporter=Recorder(events.append))
    assert [each.text for each in events if isinstance(each, Note)] == [
        f"{tmp_path}/a.safetensors was trained with another autoencoder: --vae theirs/vae takes it"
    ]
