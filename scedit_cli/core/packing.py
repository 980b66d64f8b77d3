"""Tensors as the bytes of a file: the same tensors and facts always give the same bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import torch
from safetensors.torch import save
from torch import Tensor


def packed(tensors: Mapping[str, Tensor], header: Mapping[str, str], dtype: torch.dtype | None = None) -> bytes:
    """A safetensors file with sorted metadata, which the library writes in another order in each process.

    Args:
        dtype: of the tensors in the file; their own where left out.
    """
    file = save(_plain(tensors, dtype), dict(header))
    size = int.from_bytes(file[:8], "little")
    about = json.loads(file[8 : 8 + size])
    about["__metadata__"] = dict(sorted(header.items()))
    text = json.dumps(about, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + file[8 + size :]


def pickled(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> bytes:
    """A file as `torch.save` writes it into memory; on the disk it would keep the file's first, temporary name."""
    buffer = io.BytesIO()
    torch.save(_plain(tensors, dtype), buffer)
    return buffer.getvalue()


def _plain(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    # Cloned: several names may share one storage, and a part of a storage would be pickled with all of it.
    return {key: tensor.detach().to("cpu", dtype).clone().contiguous() for key, tensor in tensors.items()}
