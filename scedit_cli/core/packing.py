"""Serialisation of tensors to a file's bytes: the same tensors and metadata always give the same bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import torch
from safetensors.torch import save
from torch import Tensor


def packed(tensors: Mapping[str, Tensor], header: Mapping[str, str], dtype: torch.dtype | None = None) -> bytes:
    """Return a safetensors file's bytes with `header` as sorted metadata: the library's order changes by process.

    Args:
        dtype: of the tensors in the file; their own by default.
    """
    file = save(_plain(tensors, dtype), dict(header))
    size = int.from_bytes(file[:8], "little")
    about = json.loads(file[8 : 8 + size])
    about["__metadata__"] = dict(sorted(header.items()))
    text = json.dumps(about, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + file[8 + size :]


def pickled(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> bytes:
    """Return a file's bytes as `torch.save` writes them to memory; on disk it would store the temporary file's name."""
    buffer = io.BytesIO()
    torch.save(_plain(tensors, dtype), buffer)
    return buffer.getvalue()


def _plain(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    # Cloned: several names may share one storage, and a part of a storage would be pickled with all of it.
    return {key: tensor.detach().to("cpu", dtype).clone().contiguous() for key, tensor in tensors.items()}
