"""The models of a pipeline's folder, each read whole: every weight there has a place, and every place a weight."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

import torch

from scedit_cli.errors import SceditError

# What CLIP's text encoders are stored with and no pipeline of ours uses.
_SPARE = re.compile(r"(position_ids|logit_scale|text_projection\.weight|visual_projection\.weight)$|^vision_model\.")

_FULL = re.compile(r"model(-\d+-of-\d+)?\.safetensors$")


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


def variant_of(files: Iterable[str], dtype: torch.dtype) -> str | None:
    """"fp16" where these weights come in it, and in float32 not or for no need."""
    files = list(files)
    is_half, is_full = any(".fp16" in file for file in files), any(_FULL.search(file) for file in files)
    return "fp16" if is_half and (dtype == torch.float16 or not is_full) else None


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
