from __future__ import annotations

import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest

from scedit_cli.models.base import load_base
from scedit_cli.training.model_card import UPLOADED
from scedit_cli.utils.errors import SceditError, WorkFailed
from scedit_cli.utils.hub import check_login, split_revision, upload
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


@pytest.fixture
def hub(monkeypatch):
    """A hub that takes everything, and what it was given."""
    given = {}

    class Hub:
        def whoami(self):
            given["asked"] = True

        def create_repo(self, repository, exist_ok):
            return f"https://hub/{repository}"

        def upload_folder(self, **arguments):
            if "error" in given:
                raise given["error"]
            given.update(arguments)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return given


def test_uploading_takes_what_others_need(hub, tmp_path):
    assert upload(tmp_path, "me/canny", UPLOADED) == "https://hub/me/canny"
    assert hub["repo_id"] == "me/canny" and hub["folder_path"] == tmp_path
    assert {"tuner.safetensors", "README.md", "recipe.toml"} <= set(hub["allow_patterns"])
    for gone in (ConnectionError("no route"), huggingface_hub.errors.HTTPError("no route")):
        hub["error"] = gone
        with pytest.raises(WorkFailed, match="could not be uploaded to me/canny: no route"):
            upload(tmp_path, "me/canny", UPLOADED)


def test_who_cannot_upload_is_told_before_training(hub, monkeypatch):
    check_login("me/canny")
    assert hub["asked"]
    with pytest.raises(SceditError, match="`push_to_hub` me/can ny"):
        check_login("me/can ny")

    def refuse(self):
        raise huggingface_hub.errors.LocalTokenNotFoundError("no token")

    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", refuse)
    with pytest.raises(SceditError, match="not logged in") as refused:
        check_login("me/canny")
    assert refused.value.hint == "hf auth login"

    def lost(self):
        raise huggingface_hub.errors.HTTPError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", lost)
    with pytest.raises(SceditError, match=r"the hub cannot be reached \(no route\)"):
        check_login("me/canny")
