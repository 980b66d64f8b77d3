"""SCEdit (arXiv 2312.11392): fine-tune and control U-Net diffusion models by editing only their skip connections.

    import scedit_cli as scedit

    tuner = scedit.load_tuner("canny.safetensors")
    with scedit.attach(unet, tuner) as edits:
        edits.set_hints({"canny": edges})
        noise = unet(sample, timestep, context).sample

The names below are imported on first use, so that `import scedit_cli` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.version import __version__

if TYPE_CHECKING:
    from scedit_cli.core.attach import attach
    from scedit_cli.core.blend import merge
    from scedit_cli.core.bundle import Bundle
    from scedit_cli.core.tuners import CSCTuner, SCTuner
    from scedit_cli.core.weights import load_tuner, save_tuner
    from scedit_cli.inference.sampling_options import SamplingOptions
    from scedit_cli.jobs.evaluate import evaluate

__all__ = [
    "Bundle",
    "CSCTuner",
    "SCTuner",
    "SamplingOptions",
    "SceditError",
    "__version__",
    "attach",
    "evaluate",
    "load_tuner",
    "merge",
    "save_tuner",
]

_HOMES = {
    "Bundle": "core.bundle",
    "CSCTuner": "core.tuners",
    "SCTuner": "core.tuners",
    "SamplingOptions": "inference.sampling_options",
    "attach": "core.attach",
    "evaluate": "jobs.evaluate",
    "load_tuner": "core.weights",
    "merge": "core.blend",
    "save_tuner": "core.weights",
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
