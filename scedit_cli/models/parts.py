"""The models of a pipeline's folder, each read whole: every weight there has a place, and every place a weight."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

import torch

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.fetched import check_fetched

# What CLIP's text encoders are stored with and no pipeline of ours uses.
_SPARE = re.compile(r"(position_ids|logit_scale|text_projection\.weight|visual_projection\.weight)$|^vision_model\.")

HALF = "fp16"
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_)?model(?:-\d+-of-\d+)?(?:\.(?P<variant>[^.]+?))?(?:-\d+-of-\d+)?\.safetensors"
)


def load_part(folder: Path, kind: type[torch.nn.Module], dtype: torch.dtype, what: str) -> torch.nn.Module:
    """The model of class `kind` of a folder in `dtype` on the CPU; `what` says whose weights those are.

    Raises:
        SceditError: its files lack weights, or hold some that its configuration has no place for.
        Exception: whatever else odd weights and configurations lead diffusers and transformers to.
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
    """Check that the weights which `load_part` would read have been downloaded; those beside them need not be.

    Args:
        where: what stands before a file's name in the sentence.

    Raises:
        SceditError: one is a pointer or a web page.
    """
    files = sorted(folder.glob("*.safetensors"))
    variant = variant_of((file.name for file in files), dtype)
    for file in files:
        if (found := _WEIGHTS.fullmatch(file.name)) and found["variant"] == variant:
            check_fetched(file, f"{where}{file.name}")


def variant_of(files: Iterable[str], dtype: torch.dtype) -> str | None:
    """"fp16" where a part's weights come in it and no more is asked for, else the plain ones, else what is there alone
    ("bf16", "non_ema")."""
    found = variants_in(files)
    return None if None in found and not (dtype == torch.float16 and HALF in found) else preferred(found)


def variants_in(files: Iterable[str]) -> set[str | None]:
    """The variants that a part's weights come in, by the names of its files; None for the plain ones."""
    return {found["variant"] for file in files if (found := _WEIGHTS.fullmatch(file))}


def preferred(variants: Collection[str | None]) -> str | None:
    return HALF if HALF in variants else min(filter(None, variants), default=None)


def missing(what: str) -> SceditError:
    """The error of weights that are in no file, `what` they are of."""
    return SceditError(f"{what} are missing", hint="get it anew")


def homeless(what: str, keys: Collection[str], place: str = "its configuration") -> SceditError:
    """The error of weights with these names, `what` they are of, for which there is no `place`."""
    first, *others = sorted(keys)
    more = f" and {len(others)} more" if others else ""
    return SceditError(
        f"{what} have no place in {place}: {first}{more}",
        hint="it is another model than it says, or one that something was added to: take the plain one",
    )
