"""Where pipelines come from: the embedded one, a folder, a file, or the model hub. Never pickles or remote code."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from scedit_cli.errors import SceditError, WorkFailed, not_loaded
from scedit_cli.files import check_fetched, expanded, read_json
from scedit_cli.hub import download_pipeline, is_hub_id
from scedit_cli.original import open_original

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

EMBEDDED = "scenes"
_EMBEDDED_FOLDER = Path(__file__).parent / "scenes" / "world" / "base"
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_LIBRARIES = ("diffusers", "transformers")
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_)?model(?:\.(?P<variant>[^.]+?))?(?:-\d+-of-\d+)?\.safetensors")


def open_pipeline(
    model: str | Path, dtype: torch.dtype, revision: str | None = None, prediction: str | None = None
) -> tuple[DiffusionPipeline, str | None]:
    """The pipeline on the CPU, its autoencoder in float32 and the rest in `dtype`; and its commit on the hub.

    Args:
        prediction: "epsilon" or "v_prediction", by which a single file's configuration is chosen.

    Raises:
        SceditError: nothing is there, the hub cannot be reached, it is no pipeline, or its model is no U-Net.
        WorkFailed: the embedded pipeline is missing.
    """
    path = expanded(model)
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
            return _whole(open_original(path, dtype, prediction), str(model)), None
    if not is_hub_id(model) or path.suffix == ".safetensors":
        raise SceditError(
            f"base {model}: no such folder or file",
            hint='name a diffusers folder, a single file, a hub id, or "scenes"',
        )
    folder, commit = download_pipeline(
        str(model), revision, lambda folder: _read_index(folder, str(model)), lambda files: best_variant(files, dtype)
    )
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

    if "text_encoder_2" in _read_index(folder, name):
        kind, options = StableDiffusionXLPipeline, {"add_watermarker": False}
    else:
        kind = StableDiffusionPipeline
        options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    _check_files(folder, name)
    try:
        with quiet():
            pipeline = kind.from_pretrained(
                folder,
                dtype={"vae": torch.float32, "default": dtype},
                variant=best_variant([f.relative_to(folder).as_posix() for f in folder.rglob("*.safetensors")], dtype),
                use_safetensors=True,
                local_files_only=True,
                **options,
            )
    except Exception as error:  # the libraries raise whatever odd weights and configurations lead them to
        hint = "whole pipelines with .safetensors weights are read; pickled .bin weights are not"
        raise not_loaded(error, f"base {name}: its pipeline cannot be loaded", hint) from error
    return _whole(pipeline, name, folder)


def _check_files(folder: Path, name: str) -> None:
    """Raises SceditError where a file was not downloaded, or a tokenizer has no vocabulary: the library then makes one
    of its own, to which every letter is unknown."""
    for part in (*_PARTS, "text_encoder_2", "tokenizer_2"):
        inside = folder / part
        for file in sorted(inside.glob("[!.]*.*")):
            check_fetched(file, f"base {name}: {part}/{file.name}")
        if part.startswith("tokenizer") and inside.is_dir() and not (inside / "tokenizer.json").is_file():
            for vocabulary in ("vocab.json", "merges.txt"):
                if not (inside / vocabulary).is_file():
                    raise SceditError(
                        f"base {name}: {part}/{vocabulary} is missing", "get it anew, with its .json and .txt files"
                    )


def _whole(pipeline: DiffusionPipeline, name: str, folder: Path | None = None) -> DiffusionPipeline:
    for part, module in pipeline.components.items():
        if isinstance(module, torch.nn.Module):
            check_whole(module, f"base {name}: weights of its {part}", folder and folder / part)
    return pipeline


def check_whole(module: torch.nn.Module, what: str, folder: Path | None = None) -> None:
    """Raises SceditError where a weight was in none of the files: the libraries leave those that were not on the meta
    device, or (transformers) draw them at random and merely warn."""
    stored = {key for file in folder.glob("*.safetensors") for key in _keys(file)} if folder else None
    if any(weight.is_meta for weight in module.parameters()) or (
        stored is not None and len(stored) < len(module.state_dict())
    ):
        raise SceditError(f"{what} are missing", hint="get it anew")


def _keys(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as weights:
        return [key for key in weights.keys() if not key.endswith("position_ids")]  # noqa: SIM118


def _read_index(folder: Path, name: str) -> dict[str, str]:
    """The class of each part of the pipeline, once it is sure that it has those which a base needs."""
    try:
        index = read_json((folder / "model_index.json").read_text(encoding="utf-8"))
        parts = {part: kind[1] for part, kind in index.items() if isinstance(kind, list) and kind[1]}
    except FileNotFoundError:
        raise _no_pipeline(name) from None
    except (ValueError, LookupError, AttributeError) as error:
        raise SceditError(f"base {name}: model_index.json is damaged: {error}", hint="get the folder anew") from error
    kind = index.get("_class_name")
    libraries = {part: value[0] for part, value in index.items() if isinstance(value, list) and value[1]}
    if foreign := {part: library for part, library in libraries.items() if library not in _LIBRARIES}:
        part, library = next(iter(foreign.items()))
        if part in _PARTS or part == "text_encoder_2":
            raise SceditError(
                f"base {name}: its {part} comes with code of its own ({library}), which is never run",
                hint="name a pipeline made of diffusers' and transformers' own classes",
            )
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


def best_variant(files: list[str], dtype: torch.dtype) -> str | None:
    """Which of the variants that a pipeline's weights come in: "fp16" where no more is asked for, else the plain ones,
    else what a part has alone ("bf16", "non_ema"), where no other part has both: of a part that lacks the variant, the
    library takes the plain ones."""
    variants: dict[str, set[str | None]] = {}
    for file in files:
        part, _, name = file.partition("/")
        if part in (*_PARTS, "text_encoder_2") and (found := _WEIGHTS.fullmatch(name)):
            variants.setdefault(part, set()).add(found["variant"])
    if dtype == torch.float16 and "fp16" in variants.get("unet", ()):
        return "fp16"
    alone = [each for each in variants.values() if None not in each]
    shared = set.intersection(*alone) if alone else set()
    return min(shared.difference(*(each for each in variants.values() if None in each)), default=None)


def _no_pipeline(name: str) -> SceditError:
    return SceditError(
        f"base {name}: no diffusers pipeline, it has no model_index.json",
        hint="name a folder as `save_pretrained` of a pipeline writes it",
    )
