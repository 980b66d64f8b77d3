"""The weights of a model, told apart from copies that libraries keep beside them."""

from __future__ import annotations

import hashlib
import re

from torch import Tensor, nn, signbit

# diffusers' fused projections: copies of to_q, to_k and to_v, which it leaves behind when they are separated again.
_FUSED = re.compile(r"\.to_(added_)?q?kv\.(weight|bias)$")


def own_weights(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The weights by name, in their order: those that its files hold, whether or not projections are fused."""
    return sorted((name, weight) for name, weight in model.state_dict().items() if not _FUSED.search(name))


def fingerprint(unet: nn.Module) -> str:
    """32 hex digits over a U-Net's weight names, shapes and the signs of some values of each.

    Signs survive every change of precision, so a base has one fingerprint in float32, float16 and bfloat16.
    """
    digest = hashlib.sha256()
    for name, weight in own_weights(unet):
        flat = weight.detach().flatten()
        signs = signbit(flat[:: max(1, flat.numel() // 64)][:64])
        digest.update(f"{name}{tuple(weight.shape)}".encode() + bytes(signs.tolist()))
    return digest.hexdigest()[:32]
