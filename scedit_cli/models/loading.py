"""Loading of pipelines: the embedded one, a folder, a file, or the model hub's; never pickles or remote code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from scedit_cli.models.names import VIDEO_PIPELINES, check_model, no_pipeline
from scedit_cli.models.noise_levels import check_scheduler
from scedit_cli.models.parts import HALF, check_weights, load_part, preferred, variants_in
from scedit_cli.models.single_file import open_original, title_of
from scedit_cli.models.unet_inputs import check_texts, check_unet
from scedit_cli.utils.errors import SceditError, WorkFailed, not_loaded
from scedit_cli.utils.fetched import check_fetched
from scedit_cli.utils.hub import download_pipeline
from scedit_cli.utils.io import expanded, read_json
from scedit_cli.utils.names import EMBEDDED
from scedit_cli.utils.quieting import Shared, no_warnings

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, SchedulerMixin

_EMBEDDED_FOLDER = Path(__file__).parents[1] / "scenes" / "world" / "base"
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_LIBRARIES = ("diffusers", "transformers")
_CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
# The supported classes of a pipeline's other parts, by that of its U-Net.
_CLASSES = {
    "UNet2DConditionModel": {"vae": ("AutoencoderKL",), "text_encoder": _CLIP, "text_encoder_2": _CLIP[1:]},
    "DreamLiteUNetModel": {
        "vae": ("AutoencoderTiny",),
        "text_encoder": ("Qwen3VLForConditionalGeneration",),
        "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    },
}
_DREAMLITE = ("DreamLitePipeline", "DreamLiteMobilePipeline")


@dataclass(frozen=True)
class Opened:
    """A pipeline on the CPU, its autoencoder in float32 and the rest in the requested precision.

    Attributes:
        names: the pipeline's names: the requested one, and those in its files.
        commit: the hub commit of its files; None for local files.
        is_guessed: whether the U-Net's prediction type is a guess.
    """

    pipeline: DiffusionPipeline
    names: tuple[str, ...]
    commit: str | None = None
    is_guessed: bool = False


def open_pipeline(
    model: str | Path, dtype: torch.dtype, revision: str | None = None, prediction: str | None = None
) -> Opened:
    """Load a pipeline, and check that its weights are complete and that its U-Net takes latents, a time and texts.

    Args:
        model: as for `load_base`, without a revision in the name.
        dtype: the precision of U-Net and text encoders.
        revision: branch, tag or commit of a hub id.
        prediction: "epsilon" or "v_prediction", which chooses a single file's configuration.

    Raises:
        SceditError: the model does not exist, the hub cannot be reached, it is no pipeline, or it cannot be tuned.
        WorkFailed: the embedded pipeline is missing.
    """
    path = expanded(model)
    if revision and (model == EMBEDDED or path.exists()):
        raise SceditError(f"base {model}: it has no revision {revision}, it is not on the hub", hint="leave it out")
    if model == EMBEDDED:
        if not _EMBEDDED_FOLDER.is_dir():
            raise WorkFailed(f"the embedded base is missing: {_EMBEDDED_FOLDER}", hint="install scedit again")
        return Opened(_load_folder(_EMBEDDED_FOLDER, EMBEDDED, dtype), (EMBEDDED,))
    if path.is_dir():
        return Opened(_load_folder(path, str(model), dtype), names_in(path))
    if path.exists():
        with quiet():
            pipeline, is_guessed = open_original(path, dtype, prediction)
        return Opened(_checked(pipeline, str(model)), (path.stem, title_of(path)), is_guessed=is_guessed)
    check_model(model)
    folder, commit = download_pipeline(
        str(model), revision, lambda folder: _read_index(folder, str(model)), lambda files: best_variant(files, dtype)
    )
    return Opened(_load_folder(folder, str(model), dtype), (str(model), *names_in(folder)), commit)


def import_libraries() -> None:
    """Import the classes of diffusers and transformers that a pipeline for images from text consists of."""
    with quiet():
        from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel  # noqa: F401
        from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401


def scheduler_in(model: str | Path) -> SchedulerMixin | None:
    """Return the scheduler of the embedded pipeline or of a folder, reading no weights; None where there is none.

    Raises:
        SceditError: the folder holds no pipeline that can be tuned.
    """
    import diffusers

    folder = _EMBEDDED_FOLDER if model == EMBEDDED else expanded(model)
    if not folder.is_dir():
        return None
    kind = getattr(diffusers, _read_index(folder, str(model))["scheduler"], None)
    try:
        with quiet():
            return kind and kind.from_pretrained(folder / "scheduler", local_files_only=True)
    except Exception:  # loading the whole pipeline will say what is wrong with it
        return None


@contextmanager
def _quieted() -> Iterator[None]:
    import diffusers.utils.logging as of_diffusers
    import transformers.utils.logging as of_transformers

    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in (of_diffusers, of_transformers)]
    try:
        for log, _, _ in before:
            log.set_verbosity_error()
            log.disable_progress_bar()
        with no_warnings:
            yield
    finally:
        for log, verbosity, bars in before:
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()


_QUIET = Shared(_quieted)


def quiet() -> Shared:
    """Return a context without warnings and progress bars of diffusers and transformers; its end restores them."""
    return _QUIET


def _load_folder(folder: Path, name: str, dtype: torch.dtype) -> DiffusionPipeline:
    import diffusers
    import transformers

    parts = _read_index(folder, name)
    kinds = {
        "unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL,
        "text_encoder": transformers.CLIPTextModel,
    }  # fmt: skip
    unused = {"feature_extractor": None, "image_encoder": None}
    if parts["unet"] == "DreamLiteUNetModel":
        kind, options = getattr(diffusers, read_index(folder, name)[0]), {}
        kinds = {
            "unet": diffusers.DreamLiteUNetModel, "vae": diffusers.AutoencoderTiny,
            "text_encoder": transformers.Qwen3VLForConditionalGeneration,
        }  # fmt: skip
        unused = {"processor": None}  # it reads images to edit
    elif "text_encoder_2" in parts:
        kind, options = diffusers.StableDiffusionXLPipeline, {"add_watermarker": False}
        kinds["text_encoder_2"] = transformers.CLIPTextModelWithProjection
    else:
        kind, options = diffusers.StableDiffusionPipeline, {"safety_checker": None, "requires_safety_checker": False}
    check_files(folder, name, dtype)
    try:
        unet, vae = (read_json((folder / part / "config.json").read_text("utf-8")) for part in ("unet", "vae"))
        check_unet(unet, name, vae.get("latent_channels", 4))
        with quiet():
            models = {}
            for part, model in kinds.items():
                precision = torch.float32 if part == "vae" else dtype
                models[part] = load_part(folder / part, model, precision, f"base {name}: weights of its {part}")
            pipeline = kind.from_pretrained(folder, local_files_only=True, **models, **unused, **options)
    except SceditError:
        raise
    except Exception as error:  # with odd weights and configurations, the libraries raise errors of any kind
        hint = "whole pipelines with .safetensors weights are read; pickled .bin weights are not"
        raise not_loaded(error, f"base {name}: its pipeline cannot be loaded", hint) from error
    return _checked(pipeline, name)


def check_files(folder: Path, name: str, dtype: torch.dtype, more: tuple[str, ...] = ()) -> None:
    """Raise SceditError if a needed file was not downloaded, or if a tokenizer has no vocabulary: the library would
    then make one up, in which every letter is unknown. `more` are parts beside those of pipelines for images."""
    for part in (*_PARTS, "text_encoder_2", "tokenizer_2", *more):
        inside = folder / part
        for file in sorted(inside.glob("[!.]*.*")):
            if file.suffix in (".json", ".txt"):
                check_fetched(file, f"base {name}: {part}/{file.name}")
        check_weights(inside, torch.float32 if part == "vae" else dtype, f"base {name}: {part}/")
        if part.startswith("tokenizer") and inside.is_dir() and not (inside / "tokenizer.json").is_file():
            for vocabulary in ("vocab.json", "merges.txt"):
                if not (inside / vocabulary).is_file():
                    raise SceditError(
                        f"base {name}: {part}/{vocabulary} is missing", "get it again, with its .json and .txt files"
                    )


def _checked(pipeline: DiffusionPipeline, name: str) -> DiffusionPipeline:
    check_texts(pipeline, name)
    check_scheduler(pipeline.scheduler, name, by_size=type(pipeline).__name__ in _DREAMLITE)
    return pipeline


def names_in(folder: Path) -> tuple[str, ...]:
    """Return the names of a base in a folder: the folder's own (in the hub's cache, the model's), and those of the
    models that it was made from."""
    place = folder.absolute()
    names = [place.parents[1].name if place.parent.name == "snapshots" else place.name]
    for file in ("model_index.json", "unet/config.json"):
        origin = read_json((folder / file).read_text(encoding="utf-8")).get("_name_or_path")
        names += [origin] if isinstance(origin, str) else []
    return tuple(names)


def read_index(folder: Path, name: str) -> tuple[str | None, dict[str, str]]:
    """Return the class of the pipeline in `folder` and that of each of its parts; `name` is the base's in errors.

    Raises:
        SceditError: it is no pipeline, its index is damaged, or a part comes with code of its own.
    """
    try:
        index = read_json((folder / "model_index.json").read_text(encoding="utf-8"))
        parts = {part: kind[1] for part, kind in index.items() if isinstance(kind, list) and kind[1]}
    except FileNotFoundError:
        raise no_pipeline(name) from None
    except (ValueError, LookupError, AttributeError) as error:
        raise SceditError(f"base {name}: model_index.json is damaged: {error}", hint="get the folder again") from error
    kind = index.get("_class_name")
    libraries = {part: value[0] for part, value in index.items() if isinstance(value, list) and value[1]}
    if foreign := {part: library for part, library in libraries.items() if library not in _LIBRARIES}:
        part, library = next(iter(foreign.items()))
        if part in _PARTS or part == "text_encoder_2":
            raise SceditError(
                f"base {name}: its {part} comes with code of its own ({library}), which is never run",
                hint="name a pipeline made of diffusers' and transformers' own classes",
            )
    return kind, parts


def _read_index(folder: Path, name: str) -> dict[str, str]:
    """Return the class of each part of the pipeline, after checking that it has the parts which a base needs."""
    kind, parts = read_index(folder, name)
    if kind in VIDEO_PIPELINES:
        raise SceditError(f"base {name}: its {kind} makes videos", "`scedit generate` takes it, with `frames=16`")
    if parts.get("unet") not in _CLASSES:
        model = next((parts[part] for part in ("unet", "transformer", "prior") if part in parts), "model of its own")
        raise SceditError(
            f"base {name}: a {kind} with a {model}, which has no U-Net skips to edit",
            hint="bases of the SD1.5, SD2.1, SDXL and DreamLite families can be tuned",
        )
    if (parts["unet"] == "DreamLiteUNetModel") != (kind in _DREAMLITE):
        raise SceditError(
            f"base {name}: a {kind} with a {parts['unet']}",
            hint=f"a {' or a '.join(_DREAMLITE)} has a DreamLiteUNetModel, and no other pipeline",
        )
    if "text_encoder_2" in parts and "text_encoder" not in parts:
        raise SceditError(
            f"base {name}: an SDXL refiner (a {kind} with text_encoder_2 alone), which goes on with images of SDXL's",
            hint="name an SDXL base, or a finetune of it",
        )
    if missing := [part for part in _PARTS if part not in parts]:
        raise SceditError(
            f"base {name}: a {kind} without {' and '.join(missing)}", hint="name a whole text-to-image pipeline"
        )
    for part, known in _CLASSES[parts["unet"]].items():
        if part in parts and parts[part] not in known:
            raise SceditError(
                f"base {name}: its {part} is a {parts[part]}, not a {known[0]}",
                hint="bases of the SD1.5, SD2.1, SDXL and DreamLite families can be tuned",
            )
    return parts


def best_variant(files: list[str], dtype: torch.dtype) -> str | None:
    """Return the variant of a hub model's files to download: "fp16" for float16 if the U-Net has it, else None (the
    plain files). If a part has no plain files, it is a variant of that part ("bf16", "non_ema") that no part has beside
    plain files; for parts that lack the variant, the library takes the plain files."""
    named = [file.partition("/") for file in files]
    parts = {part: variants_in(name for of, _, name in named if of == part) for part in (*_PARTS, "text_encoder_2")}
    if dtype == torch.float16 and HALF in parts["unet"]:
        return HALF
    alone = [each for each in parts.values() if each and None not in each]
    shared = set.intersection(*alone) if alone else set()
    return preferred(shared.difference(*(each for each in parts.values() if None in each)))
