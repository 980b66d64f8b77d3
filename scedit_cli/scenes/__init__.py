"""The embedded world: a renderer, captions, and a small latent-diffusion pipeline with tuners that know it."""

from __future__ import annotations

from pathlib import Path

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import expanded

WORLD = Path(__file__).parent / "world"
TUNERS = WORLD / "tuners"
PICTURE_SIZE = 128

# Scenes are numbered by seed. Training sets count up from 0; these are kept for measuring.
HELD_OUT_SEED = 1_000_000_000


def shipped_tuners() -> list[str]:
    """The names of the tuners that come with the package, each its kind's."""
    return sorted(file.stem for file in TUNERS.glob("*.safetensors"))


def shipped_tuner(kind: str) -> Path:
    """The file of the tuner for `kind` that comes with the package; `SceditError` names the kinds there are."""
    path = TUNERS / f"{kind}.safetensors"
    if not path.is_file():
        raise SceditError(
            f"{kind}: no such tuner file, and none of that name comes with scedit",
            hint=f"give a tuner's file, or one of {', '.join(shipped_tuners())}",
        )
    return path


def tuner_place(name: str) -> Path:
    """Where a tuner of this name lies; a bare name that is no file's is a shipped tuner's.

    Raises:
        SceditError: no such tuner is shipped.
    """
    is_bare = Path(name).name == name and not Path(name).suffix and not Path(name).exists()
    return shipped_tuner(name) if is_bare else expanded(name)


def untaken(file: Path, kind: str) -> SceditError:
    """That no tuner takes the condition image `file`."""
    return SceditError(
        f"{file}: no tuner takes {kind} conditions",
        hint=f"name one with --tuner; those of {', '.join(shipped_tuners())} are shipped, for the embedded base only",
    )
