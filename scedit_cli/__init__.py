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
    from scedit_cli.conditions.config import AnnotatorConfig
    from scedit_cli.core.attach import attach
    from scedit_cli.core.blend import merge
    from scedit_cli.core.bundle import Bundle
    from scedit_cli.core.tuners import CSCTuner, SCTuner
    from scedit_cli.core.weights import load_tuner, save_tuner
    from scedit_cli.data.sources.entry import Images
    from scedit_cli.generation.config import BaseConfig, InitImage, OutputConfig, Overrides, Prompt
    from scedit_cli.inference.config import Control, SamplerConfig
    from scedit_cli.inference.sampling_options import SamplingOptions
    from scedit_cli.jobs.annotate import annotate
    from scedit_cli.jobs.checks.prepare import Encoding, ImportRules, Scenes
    from scedit_cli.jobs.evaluate import evaluate
    from scedit_cli.jobs.generate import generate
    from scedit_cli.jobs.prepare import prepare
    from scedit_cli.jobs.train import train
    from scedit_cli.models.base import load_base

_HOMES = {
    "AnnotatorConfig": "conditions.config",
    "BaseConfig": "generation.config",
    "Bundle": "core.bundle",
    "CSCTuner": "core.tuners",
    "Control": "inference.config",
    "Encoding": "jobs.checks.prepare",
    "Images": "data.sources.entry",
    "ImportRules": "jobs.checks.prepare",
    "InitImage": "generation.config",
    "OutputConfig": "generation.config",
    "Overrides": "generation.config",
    "Prompt": "generation.config",
    "SCTuner": "core.tuners",
    "SamplerConfig": "inference.config",
    "SamplingOptions": "inference.sampling_options",
    "Scenes": "jobs.checks.prepare",
    "annotate": "jobs.annotate",
    "attach": "core.attach",
    "evaluate": "jobs.evaluate",
    "generate": "jobs.generate",
    "load_base": "models.base",
    "load_tuner": "core.weights",
    "merge": "core.blend",
    "prepare": "jobs.prepare",
    "save_tuner": "core.weights",
    "train": "jobs.train",
}

__all__ = [
    "AnnotatorConfig",
    "BaseConfig",
    "Bundle",
    "CSCTuner",
    "Control",
    "Encoding",
    "Images",
    "ImportRules",
    "InitImage",
    "OutputConfig",
    "Overrides",
    "Prompt",
    "SCTuner",
    "SamplerConfig",
    "SamplingOptions",
    "SceditError",
    "Scenes",
    "__version__",
    "annotate",
    "attach",
    "evaluate",
    "generate",
    "load_base",
    "load_tuner",
    "merge",
    "prepare",
    "save_tuner",
    "train",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
