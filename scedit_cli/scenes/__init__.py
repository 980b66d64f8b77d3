"""The embedded world: a renderer, captions, and a small latent-diffusion pipeline with tuners that know it."""

from __future__ import annotations

from pathlib import Path

from scedit_cli.errors import SceditError

WORLD = Path(__file__).parent / "world"
PICTURE_SIZE = 128

# Scenes are numbered by seed. Training sets count up from 0; these are kept for measuring.
HELD_OUT_SEED = 1_000_000_000


def shipped_tuner(kind: str) -> Path:
    """The file of the tuner for `kind` that comes with the package; `SceditError` names the kinds there are."""
    path = WORLD / "tuners" / f"{kind}.safetensors"
    if not path.is_file():
        kinds = ", ".join(sorted(p.stem for p in path.parent.glob("*.safetensors")))
        raise SceditError(f"no tuner for {kind!r} comes with scedit", hint=f"shipped: {kinds}; or name one with --tuner")
    return path
