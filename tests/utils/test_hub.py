from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from scedit_cli.models.base import load_base
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.hub import split_revision
from tests import tiny


def test_the_hub_out_of_reach(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("owner/model", "owner/model@v2"):
        with pytest.raises(SceditError, match="base owner/model: .*the model hub cannot be reached"):
            load_base(name)
    with pytest.raises(SceditError, match="autoencoder owner/vae: .*the model hub cannot be reached"):
        load_base("scenes", vae="owner/vae")


@pytest.mark.parametrize(("name", "revision"), [("owner/model", "v2"), ("owner/model@v2", None)])
def test_a_hub_model_is_pinned_to_the_commit_it_has_now(tmp_path, monkeypatch, name, revision):
    folder = shutil.copytree(tiny.pipeline_folder("sd15"), tmp_path / "0a1b2c")
    asked = []
    files = [file.relative_to(folder).as_posix() for file in folder.rglob("*.safetensors")]

    class Hub:
        def model_info(self, repository, revision, timeout):
            asked.append((repository, revision))
            return SimpleNamespace(sha="0a1b2c", siblings=[SimpleNamespace(rfilename=name) for name in files])

    def download(repository, revision, **options):
        assert options == {"local_files_only": False, "use_safetensors": True, "variant": None}
        asked.append((repository, revision))
        return str(folder)

    def index_of(repository, name, revision, local_files_only):
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", index_of)
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", download)
    base = load_base(name, revision=revision)
    assert asked == [("owner/model", "v2"), ("owner/model", "0a1b2c")]
    assert (base.name, base.revision) == ("owner/model", "0a1b2c")


def test_a_revision_stands_behind_a_hub_models_name_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "model@v1").mkdir()
    for name, parts in {
        "owner/model@v2": ("owner/model", "v2"), "owner/model@refs/pr/1": ("owner/model", "refs/pr/1"),
        "owner/model": ("owner/model", None), "owner/model@v1": ("owner/model@v1", None), "scenes": ("scenes", None),
        "owner/model@": ("owner/model@", None), "owner/model@../x": ("owner/model@../x", None),
        "owner/x@2.safetensors": ("owner/x@2.safetensors", None), "/a/b@c": ("/a/b@c", None),
    }.items():  # fmt: skip
        assert split_revision(name) == parts
    assert split_revision("owner/model", "v2") == ("owner/model", "v2")
    with pytest.raises(SceditError, match="owner/model@v2 and the revision v3: one model, two") as error:
        load_base("owner/model@v2", revision="v3")
    assert error.value.hint
