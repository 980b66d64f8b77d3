from __future__ import annotations

from scedit_cli.base import load_base
from scedit_cli.core.tuners import SCTuner
from scedit_cli.core.weights import save_tuner
from scedit_cli.generation.request import Request
from scedit_cli.jobs import generate as job
from tests import tiny


def test_pictures_are_sampled_as_the_tuner_was_taught(tmp_path, monkeypatch):
    base = load_base(tiny.pipeline_folder("sd15"))
    about = {"base_fingerprint": base.fingerprint, "prediction_type": "v_prediction", "zero_terminal_snr": "true"}
    tuner = tmp_path / "taught.safetensors"
    save_tuner(SCTuner.for_unet(base.unet), tuner, about)
    seen, original = [], job.sample
    monkeypatch.setattr(job, "sample", lambda base, *args, **more: seen.append(base) or original(base, *args, **more))
    for tuners in ([str(tuner)], []):
        job.generate(
            Request(base=base.name, prompts=["a"], tuners=tuners, steps=1), out=tmp_path / "pictures", loaded=base
        )
    assert [each.prediction_type for each in seen] == ["v_prediction", "epsilon"]
    assert seen[0].scheduler.config.rescale_betas_zero_snr
