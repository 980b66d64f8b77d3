"""Where pipelines come from: the embedded one, a folder, a file, or the model hub. Never pickles or remote code."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from scedit_cli.errors import SceditError, WorkFailed
from scedit_cli.original import open_original

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

EMBEDDED = "scenes"
_EMBEDDED_FOLDER = Path(__file__).parent / "scenes" / "world" / "base"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_HUB_TIMEOUT = 10.0  # seconds until an offline machine is told so


def open_pipeline(
    model: str | Path, dtype: torch.dtype, revision: str | None = None
) -> tuple[DiffusionPipeline, str | None]:
    """The pipeline on the CPU, its autoencoder in float32 and the rest in `dtype`; and its commit on the hub.

    Raises:
        SceditError: nothing is there, the hub cannot be reached, it is no pipeline, or its model is no U-Net.
        WorkFailed: the embedded pipeline is missing.
    """
    path = Path(model).expanduser()
    if revision and (model == EMBEDDED or path.exists()):
        raise SceditError(f"base {model}: it has no revision {revision}, it is not on the hub", hint="leave it out")
    if model == EMBEDDED:
        if not _EMBEDDED_FOLDER.is_dir():
            raise WorkFailed(f"the embedded base is missing: {_EMBEDDED_FOLDER}", hint="install scedit anew")
        return _load_folder(_EMBEDDED_FOLDER, EMBEDDED, dtype), None
    if path.is_dir():
        return _load_folder(path, str(model), dtype), None
    if path.exists():
        with quiet():
            return _whole(open_original(path, dtype), str(model)), None
    if not _HUB_ID.fullmatch(str(model)) or path.suffix == ".safetensors":
        raise SceditError(
            f"base {model}: no such folder or file",
            hint='name a diffusers folder, a single file, a hub id, or "scenes"',
        )
    folder, commit = _download(str(model), revision)
    return _load_folder(folder, str(model), dtype), commit


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and progress bars of diffusers and transformers within; afterwards they are as they were."""
    import diffusers.utils.logging as of_diffusers
    import transformers.utils.logging as of_transformers

    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in (of_diffusers, of_transformers)]
    try:
        for log, _, _ in before:
            log.set_verbosity_error()
            log.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, verbosity, bars in before:
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()


def _load_folder(folder: Path, name: str, dtype: torch.dtype) -> DiffusionPipeline:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from safetensors import SafetensorError

    if "text_encoder_2" in _read_index(folder, name):
        kind, options = StableDiffusionXLPipeline, {"add_watermarker": False}
    else:
        kind = StableDiffusionPipeline
        options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    try:
        with quiet():
            pipeline = kind.from_pretrained(
                folder,
                dtype={"vae": torch.float32, "default": dtype},
                variant=_variant(folder),
                use_safetensors=True,
                local_files_only=True,
                **options,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SceditError(
            f"base {name}: its pipeline cannot be loaded: {reason}",
            hint="whole pipelines with .safetensors weights are read; pickled .bin weights are not",
        ) from error
    return _whole(pipeline, name, folder)


def _whole(pipeline: DiffusionPipeline, name: str, folder: Path | None = None) -> DiffusionPipeline:
    """`pipeline`, once it is sure that every weight was in its files: the libraries leave those that were not on the
    meta device, or (transformers) draw them at random and merely warn."""
    for part, module in pipeline.components.items():
        if not isinstance(module, torch.nn.Module):
            continue
        stored = {key for file in (folder / part).glob("*.safetensors") for key in _keys(file)} if folder else None
        if any(weight.is_meta for weight in module.parameters()) or (
            stored is not None and len(stored) < len(module.state_dict())
        ):
            raise SceditError(f"base {name}: weights of its {part} are missing", hint="get it anew")
    return pipeline


def _keys(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as weights:
        return [key for key in weights.keys() if not key.endswith("position_ids")]  # noqa: SIM118


def _read_index(folder: Path, name: str) -> dict[str, str]:
    """The class of each part of the pipeline, once it is sure that it has those which a base needs."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        parts = {part: kind[1] for part, kind in index.items() if isinstance(kind, list) and kind[1]}
    except FileNotFoundError:
        raise _no_pipeline(name) from None
    except (ValueError, LookupError, AttributeError) as error:
        raise SceditError(f"base {name}: model_index.json is damaged: {error}", hint="get the folder anew") from error
    kind = index.get("_class_name")
    if parts.get("unet") != "UNet2DConditionModel":
        model = next((parts[part] for part in ("unet", "transformer", "prior") if part in parts), "model of its own")
        raise SceditError(
            f"base {name}: a {kind} with a {model}, which has no U-Net skips to edit",
            hint="bases of the SD1.5, SD2.1 and SDXL families can be tuned",
        )
    if missing := [part for part in _PARTS if part not in parts]:
        raise SceditError(
            f"base {name}: a {kind} without {' and '.join(missing)}", hint="name a whole text-to-image pipeline"
        )
    return parts


def _variant(folder: Path) -> str | None:
    """ "fp16" where the U-Net's weights come in no other precision."""
    names = [path.name for path in (folder / "unet").glob("*.safetensors")]
    return "fp16" if names and all(".fp16" in name for name in names) else None


def _download(repository: str, revision: str | None) -> tuple[Path, str]:
    """The folder of a hub model at the commit that `revision` means now, and that commit; offline, from the cache."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub import errors as hub

    try:
        try:
            commit, offline = HfApi().model_info(repository, revision=revision, timeout=_HUB_TIMEOUT).sha, False
        except hub.HfHubHTTPError:  # the hub has answered
            raise
        except (hub.HTTPError, OSError):
            commit, offline = revision, True
        # The index first: a model without a U-Net is then refused before gigabytes travel.
        index = hf_hub_download(repository, "model_index.json", revision=commit, local_files_only=offline)
        _read_index(Path(index).parent, repository)
        folder = Path(
            DiffusionPipeline.download(repository, revision=commit, local_files_only=offline, use_safetensors=True)
        )
    except hub.GatedRepoError as error:
        raise SceditError(
            f"base {repository}: its owner has to grant access", hint="ask for it on the hub, then `hf auth login`"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise SceditError(f"base {repository}: no revision {revision!r} on the hub", hint="check base.revision in the recipe") from error
    except hub.RepositoryNotFoundError as error:
        raise SceditError(
            f"base {repository}: neither a folder here nor a model on the hub",
            hint="check the spelling; a private model needs `hf auth login`",
        ) from error
    except hub.LocalEntryNotFoundError as error:
        raise _unreachable(repository) from error
    except hub.EntryNotFoundError as error:
        raise _no_pipeline(repository) from error
    except (hub.HTTPError, OSError) as error:
        raise _unreachable(repository) from error
    return folder, folder.name


def _no_pipeline(name: str) -> SceditError:
    return SceditError(
        f"base {name}: no diffusers pipeline, it has no model_index.json",
        hint="name a folder as `save_pretrained` of a pipeline writes it",
    )


def _unreachable(repository: str) -> SceditError:
    return SceditError(
        f"base {repository}: no such folder here, and the model hub cannot be reached",
        hint="check the spelling, go online once, or name a local diffusers folder",
    )
