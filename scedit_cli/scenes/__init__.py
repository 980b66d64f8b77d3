"""The embedded world: a renderer, captions, and a small latent-diffusion pipeline with tuners trained on it."""

from __future__ import annotations

from os.path import exists, isfile  # pathlib's versions raise errors at names that are too long
from pathlib import Path

from scedit_cli.utils.errors import SceditError, shortened
from scedit_cli.utils.io import expanded

WORLD = Path(__file__).parent / "world"
TUNERS = WORLD / "tuners"
IMAGE_SIZE = 128

# Scenes are numbered by seed. Training sets count up from 0; seeds from this one on are kept for evaluation.
HELD_OUT_SEED = 1_000_000_000


def shipped_tuners() -> list[str]:
    """Return the names of the tuners that come with the package; a control tuner's name is its condition's kind."""
    return sorted(file.stem for file in TUNERS.glob("*.safetensors"))


def shipped_tuner(kind: str) -> Path:
    """Return the file of the shipped tuner called `kind`; raise a SceditError that lists them if there is none."""
    path = TUNERS / f"{kind}.safetensors"
    if not isfile(path):
        raise SceditError(
            f"{shortened(kind)}: no such tuner file, and none of that name comes with scedit",
            hint=f"give a tuner's file, or one of {', '.join(shipped_tuners())}",
        )
    return path


def tuner_place(name: str) -> Path:
    """Return the path of a tuner by its name; a bare name that is no file's is a shipped tuner's, also beside a folder
    of that name without a tuner.

    Raises:
        SceditError: no tuner of that bare name is shipped.
    """
    from scedit_cli.core.source import tuner_files

    place = Path(name)
    is_hidden = exists(place) and (name not in shipped_tuners() or isfile(place) or bool(tuner_files(place)))
    is_bare = place.name == name and not place.suffix and not is_hidden
    return shipped_tuner(name) if is_bare else expanded(name)


def untaken(name: str, kind: str, field: str) -> SceditError:
    """Return the error that no tuner takes the condition image of this `name`, which `field` gave."""
    return SceditError(
        f"{name}: no tuner takes {kind} conditions",
        f"name one with `tuners`; those of {', '.join(shipped_tuners())} are shipped, for the embedded base only",
        field,
    )
