"""Strict loading of the models in a pipeline's folder: no weight is missing, and none is left over."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

import torch

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.fetched import check_fetched

# Weights that CLIP's text encoders are stored with and that no pipeline here uses.
_SPARE = re.compile(r"(position_ids|logit_scale|text_projection\.weight|visual_projection\.weight)$|^vision_model\.")

HALF = "fp16"
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_)?model(?:-\d+-of-\d+)?(?:\.(?P<variant>[^.]+?))?(?:-\d+-of-\d+)?\.safetensors"
)


def load_part(folder: Path, kind: type[torch.nn.Module], dtype: torch.dtype, what: str) -> torch.nn.Module:
    """Load the model of class `kind` in a folder, in `dtype` on the CPU; `what` names its weights in errors.

    Raises:
        SceditError: its files lack weights, or hold some that its configuration has no place for.
        Exception: any other error that diffusers and transformers raise for odd weights and configurations.
    """
    files = [file.name for file in folder.glob("*.safetensors")]
    model, told = kind.from_pretrained(
        folder,
        dtype=dtype,
        variant=variant_of(files, dtype),
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    if told["missing_keys"] or any(weight.is_meta for weight in model.parameters()):
        raise missing(what)
    if spare := [key for key in told["unexpected_keys"] if not _SPARE.search(key)]:
        raise homeless(what, spare)
    return model


def check_weights(folder: Path, dtype: torch.dtype, where: str) -> None:
    """Check that the weights which `load_part` would read have been downloaded; other files need not be.

    Args:
        where: the text before a file's name in the error.

    Raises:
        SceditError: one of them is a Git LFS pointer or a web page.
    """
    files = sorted(folder.glob("*.safetensors"))
    variant = variant_of((file.name for file in files), dtype)
    for file in files:
        if (found := _WEIGHTS.fullmatch(file.name)) and found["variant"] == variant:
            check_fetched(file, f"{where}{file.name}")


def variant_of(files: Iterable[str], dtype: torch.dtype) -> str | None:
    """Return the variant of a part's weights to load: "fp16" for float16 where the part has it, else None (the plain
    files), and where there are no plain files the variant that there is ("bf16", "non_ema")."""
    found = variants_in(files)
    return None if None in found and not (dtype == torch.float16 and HALF in found) else preferred(found)


def variants_in(files: Iterable[str]) -> set[str | None]:
    """Return the variants of a part's weights, read from the names of its files; None stands for the plain files."""
    return {found["variant"] for file in files if (found := _WEIGHTS.fullmatch(file))}


def preferred(variants: Collection[str | None]) -> str | None:
    return HALF if HALF in variants else min(filter(None, variants), default=None)


def missing(what: str) -> SceditError:
    """Return the error for weights, called `what`, that no file holds."""
    return SceditError(f"{what} are missing", hint="get it again")


def homeless(what: str, keys: Collection[str], place: str = "its configuration") -> SceditError:
    """Return the error for weights, called `what` and with these `keys`, that have no place in `place`."""
    first, *others = sorted(keys)
    more = f" and {len(others)} more" if others else ""
    return SceditError(
        f"{what} have no place in {place}: {first}{more}",
        hint="it is another model than it says, or one that something was added to: take the plain one",
    )
