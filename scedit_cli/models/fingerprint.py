"""A model's fingerprint, and its own weights without the copies that libraries keep beside them."""

from __future__ import annotations

import hashlib
import re

from torch import Tensor, nn, signbit

# diffusers' fused projections are copies of to_q, to_k and to_v, which it leaves behind when it separates them again.
_FUSED = re.compile(r"\.to_(added_)?q?kv\.(weight|bias)$")


def own_weights(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the weights that the model's files hold, sorted by name, whether or not projections are fused."""
    return sorted((name, weight) for name, weight in model.state_dict().items() if not _FUSED.search(name))


def fingerprint(unet: nn.Module, without: re.Pattern[str] | None = None) -> str:
    """Return 32 hex digits of a digest of a U-Net's weight names, shapes and the signs of up to 64 values of each.

    Signs survive every change of precision, so a base has one fingerprint in float32, float16 and bfloat16.

    Args:
        without: a pattern of the names of weights to leave out.
    """
    digest = hashlib.sha256()
    for name, weight in own_weights(unet):
        if without and without.search(name):
            continue
        flat = weight.detach().flatten()
        signs = signbit(flat[:: max(1, flat.numel() // 64)][:64])
        digest.update(f"{name}{tuple(weight.shape)}".encode() + bytes(signs.tolist()))
    return digest.hexdigest()[:32]
