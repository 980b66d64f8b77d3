"""An autoencoder of one's own in place of a base's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from scedit_cli.models.base import load_base
from scedit_cli.utils.errors import SceditError
from tests import tiny
from tests.original_layout import save_original_autoencoder


def test_an_autoencoder_of_ones_own(tmp_path):
    pipeline, other = tiny.pipeline("sd15"), tiny.pipeline("sd15", seed=1).vae
    for vae in (pipeline.vae, other):
        vae.register_to_config(scaling_factor=0.5)
    pipeline.save_pretrained(tmp_path / "base")
    other.save_pretrained(tmp_path / "own")
    save_file(other.state_dict(), tmp_path / "own.safetensors")
    save_original_autoencoder(other, tmp_path / "original.safetensors")
    weight = other.decoder.conv_in.weight
    for place in ("own", "own.safetensors", "original.safetensors"):
        base = load_base(tmp_path / "base", vae=tmp_path / place, dtype=torch.bfloat16)
        assert torch.equal(base.vae.decoder.conv_in.weight, weight) and base.vae.dtype == torch.float32
        assert not base.vae.training and not any(p.requires_grad for p in base.vae.parameters())
        assert (base.vae_name, base.vae_revision) == (str(tmp_path / place), None)
        assert base.vae.config.scaling_factor == 0.5  # of a lone file, that of the base's own
    # A pipeline's folder lends its own.
    assert torch.equal(
        load_base(tiny.pipeline_folder("sd15"), vae=tiny.pipeline_folder("sd21", seed=1)).vae.encoder.conv_in.weight,
        tiny.pipeline("sd21", seed=1).vae.encoder.conv_in.weight,
    )


def test_what_is_no_autoencoder_for_the_base(tmp_path):
    from diffusers import AutoencoderKL, AutoencoderTiny

    AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4).save_pretrained(
        tmp_path / "taesd"
    )
    AutoencoderKL(latent_channels=16, block_out_channels=(4,), norm_num_groups=4).save_pretrained(tmp_path / "flux")
    (tmp_path / "empty").mkdir()
    tiny.vae().save_pretrained(tmp_path / "torn")
    file = tmp_path / "torn/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights.pop("decoder.conv_in.bias")
    save_file(weights, file)
    save_file(weights, tmp_path / "torn.safetensors")
    (tmp_path / "vae.pt").write_bytes(b"pickle")
    for name, sentence in {
        "taesd": "of the kind AutoencoderTiny", "flux": "16 channels, the base's 4", "empty": "no config.json",
        "torn": "weights are missing", "torn.safetensors": "weights are missing", "gone": "no such folder",
        "vae.pt": "only .safetensors",
    }.items():  # fmt: skip
        with pytest.raises(SceditError, match=f"(?s)autoencoder {tmp_path / name}.*{sentence}"):
            load_base(tiny.pipeline_folder("sd15"), vae=tmp_path / name)
    with pytest.raises(SceditError, match="it has no revision main"):
        load_base(tiny.pipeline_folder("sd15"), vae=tmp_path / "flux", vae_revision="main")


def test_an_autoencoder_of_the_hub_is_pinned_and_only_its_files_travel(tmp_path, monkeypatch):
    asked = []
    tiny.vae().save_pretrained(tmp_path / "0a1b2c" / "vae")

    class Hub:
        def model_info(self, repository, revision, timeout):
            assert (repository, revision) == ("owner/vae", "v2")
            files = ["model_index.json", "vae/config.json", "unet/config.json"]
            return SimpleNamespace(sha="0a1b2c", siblings=[SimpleNamespace(rfilename=name) for name in files])

    def snapshot(repository, **options):
        asked.append((repository, options))
        return str(tmp_path / "0a1b2c")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    base = load_base(tiny.pipeline_folder("sd15"), vae="owner/vae@v2")
    assert (base.vae_name, base.vae_revision) == ("owner/vae", "0a1b2c")
    patterns = ["vae/config.json", "vae/*.safetensors"]
    assert asked == [
        ("owner/vae", {"revision": "0a1b2c", "allow_patterns": patterns, "local_files_only": False})
    ]
