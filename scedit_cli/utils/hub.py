"""The hub: downloads pinned to a commit, offline from the cache, and uploads; with readable errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from scedit_cli.utils.errors import SceditError, WorkFailed, reason

_TIMEOUT = 10.0  # seconds until the hub counts as unreachable
_CONFIG = "config.json"
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*")  # also refs/pr/1


def is_hub_id(name: str | Path) -> bool:
    """Return whether the name has the form of a model's or dataset's on the hub, "owner/name"."""
    return bool(_ID.fullmatch(str(name)))


def download_tuner(repository: str, revision: str | None) -> Path:
    """Download a tuner's repository and return its folder, whose name is its commit; raise SceditError otherwise."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = ["*.safetensors", "*.bin", "*.json"]
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise SceditError(
            f"{repository}: no such file, and the hub gave none: {reason(error)}", hint="check the path, or the hub id"
        ) from error


def download_file(repository: str, name: str) -> Path:
    """Download a file once and return its path.

    Raises:
        OSError, ValueError: the hub is out of reach, or has no such file.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name, local_files_only=not answers(repository)))
    except hub.HTTPError as error:
        raise OSError(str(error)) from error


@lru_cache
def answers(repository: str) -> bool:
    """Return whether the hub answers. This is checked first because downloads retry for half a minute per file."""
    from huggingface_hub import errors as hub

    try:
        return _commit(repository, None)[1] is not None
    except hub.HfHubHTTPError:
        return True  # the hub answers with an error, which the download will raise


def downloads() -> str:
    """Return the folder in which the hub's library keeps what it has downloaded."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return HF_HUB_CACHE


def card(facts: Mapping[str, Any], score: float | None, text: str) -> str:
    """Return a model card: the `facts` of the model as the hub reads them, its control score, and `text`."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    if score is not None:
        task = facts["pipeline_tag"]
        result = EvalResult(task, "scenes", "held-out scenes", "control_score", score, metric_name="control score")
        facts = {**facts, "eval_results": [result]}
    return str(ModelCard(f"---\n{ModelCardData(**facts).to_yaml()}\n---\n\n{text}\n"))


def check_repository(name: str) -> None:
    """Raise SceditError unless `name` can be a repository's, to which `train` uploads."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise SceditError(f"`push_to_hub` {name}: {error}", "name it as in user/my-tuner", "push_to_hub") from error


def check_login(repository: str) -> None:
    """Check that the user can upload to the hub.

    Raises:
        SceditError: the hub cannot be reached, no user is logged in, or `repository` is not a valid repository name.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError

    check_repository(repository)
    try:
        HfApi().whoami()
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        message = f"`push_to_hub` {repository}: not logged in to the hub ({reason(error)})"
        raise SceditError(message, "hf auth login", "push_to_hub") from error
    except (HTTPError, OSError) as error:
        message = f"`push_to_hub` {repository}: the hub cannot be reached ({reason(error)})"
        raise SceditError(message, "check the network", "push_to_hub") from error


def upload(folder: Path, repository: str, files: list[str]) -> str:
    """Upload the `files` (patterns) of a run's folder that other users need, and return the repository's address.

    Raises:
        WorkFailed: the upload failed.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    try:
        api = HfApi()
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=files)
    except (HTTPError, OSError) as error:
        raise WorkFailed(
            f"{folder} could not be uploaded to {repository}: {reason(error)}",
            hint=f"the run is whole; hf upload {repository} {folder} tries again",
        ) from error
    return str(address)


def split_revision(name: str | Path, revision: str | None = None) -> tuple[str, str | None]:
    """Split `owner/name@revision` into hub id and revision. Any other name, or that of an existing file or folder, is
    returned whole with `revision`, which is the one given separately, as in recipes.

    Raises:
        SceditError: there are two revisions.
    """
    repository, _, pinned = str(name).partition("@")
    named = is_hub_id(repository) and _REVISION.fullmatch(pinned) and not str(name).endswith(".safetensors")
    if not named or Path(name).exists():
        return str(name), revision
    if revision:
        raise SceditError(f"{name} and the revision {revision}: one model, two revisions", hint="leave one out")
    return repository, pinned


def download_pipeline(
    repository: str,
    revision: str | None,
    check_index: Callable[[Path], object],
    variant_of: Callable[[list[str]], str | None],
) -> tuple[Path, str]:
    """Download a pipeline at the current commit of `revision` (take it from the cache when offline), and return its
    folder and commit.

    Args:
        check_index: a check of the folder with model_index.json alone, before the large files are downloaded.
        variant_of: a function from the file names to the variant to take, such as "fp16".

    Raises:
        SceditError: no such model or revision, no access to it, no pipeline, or the hub is out of reach.
    """
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download

    with _told(repository, revision):
        commit, files = _commit(repository, revision)
        is_offline = files is None
        index = Path(hf_hub_download(repository, "model_index.json", revision=commit, local_files_only=is_offline))
        check_index(index.parent)
        if files is None:
            files = [file.relative_to(index.parent).as_posix() for file in index.parent.rglob("*.safetensors")]
        options = {"local_files_only": is_offline, "use_safetensors": True, "variant": variant_of(files)}
        folder = Path(DiffusionPipeline.download(repository, revision=commit, **options))
    return folder, folder.name


def download_configs(repository: str, revision: str | None) -> Path:
    """Download a pipeline's configuration files alone and return their folder. Raises as `download_pipeline`."""
    from huggingface_hub import snapshot_download

    with _told(repository, revision):
        commit, files = _commit(repository, revision)
        wanted = ["model_index.json", "*/*config.json"]
        return Path(
            snapshot_download(repository, revision=commit, allow_patterns=wanted, local_files_only=files is None)
        )


def download_autoencoder(repository: str, revision: str | None) -> tuple[Path, str]:
    """Download an autoencoder, from the root of the model or from its `vae`, and return the model's folder and commit.
    Raises as `download_pipeline`."""
    from huggingface_hub import snapshot_download

    with _told(repository, revision, "autoencoder"):
        commit, files = _commit(repository, revision)
        inside = "vae/" if files and _CONFIG not in files else ""
        wanted = ["config.json", "*.safetensors", "vae/config.json", "vae/*.safetensors"]
        folder = snapshot_download(
            repository,
            revision=commit,
            allow_patterns=[f"{inside}{_CONFIG}", f"{inside}*.safetensors"] if files else wanted,
            local_files_only=files is None,
        )
    return Path(folder), Path(folder).name


def _commit(repository: str, revision: str | None) -> tuple[str | None, list[str] | None]:
    """Return a revision's commit and the names of its files; where the hub is out of reach, the revision and None."""
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub

    try:
        info = HfApi().model_info(repository, revision=revision, timeout=_TIMEOUT)
    except hub.HfHubHTTPError:  # the hub has answered
        raise
    except (hub.HTTPError, OSError):
        return revision, None
    return info.sha, [file.rfilename for file in info.siblings]


@contextmanager
def _told(repository: str, revision: str | None, what: str = "base") -> Iterator[None]:
    """Within, errors of the hub become sentences about `what`, "base" or "autoencoder"."""
    from huggingface_hub import errors as hub

    is_base = what == "base"
    try:
        yield
    except hub.GatedRepoError as error:
        raise SceditError(
            f"{what} {repository}: its owner has to grant access", hint="ask for it on the hub, then `hf auth login`"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise SceditError(
            f"{what} {repository}: no revision {revision!r} on the hub",
            hint=f"check what stands behind {repository}@, or base.{'' if is_base else 'vae_'}revision in the recipe",
        ) from error
    except hub.RepositoryNotFoundError as error:
        raise SceditError(
            f"{what} {repository}: neither a folder here nor a model on the hub",
            hint="check the spelling; a private model needs `hf auth login`",
        ) from error
    except hub.LocalEntryNotFoundError as error:
        raise _unreachable(repository, what) from error
    except hub.EntryNotFoundError as error:
        raise SceditError(
            f"{what} {repository}: not in diffusers' layout, it has no {'model_index' if is_base else 'config'}.json",
            hint="name a model in diffusers' layout",
        ) from error
    except hub.HFValidationError as error:
        raise SceditError(
            f"{what} {repository[:100]}: neither a folder here nor the name of a model: {reason(error)}",
            hint="name a diffusers folder, a single file or a hub id" + (', or "scenes"' if is_base else ""),
        ) from error
    except (hub.HTTPError, OSError) as error:
        raise _unreachable(repository, what) from error


def _unreachable(repository: str, what: str) -> SceditError:
    return SceditError(
        f"{what} {repository}: no such folder here, and the model hub cannot be reached",
        hint="check the spelling, go online once, or name a local diffusers folder",
    )
