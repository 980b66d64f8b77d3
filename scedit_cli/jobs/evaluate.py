"""The job that evaluates tuners: how well they control a base, on anybody's images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scedit_cli.benchmark.requests import EvaluationRequest
from scedit_cli.benchmark.tuner_evaluation import evaluate_tuners
from scedit_cli.generation.config import BaseConfig, tuner_specs
from scedit_cli.inference.sampling_options import SamplingOptions
from scedit_cli.jobs.checks.evaluate import check
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from scedit_cli.core.bundle import Bundle
    from scedit_cli.core.tuners import Tuner
    from scedit_cli.data.dataset import Dataset
    from scedit_cli.models.base import Base
    from scedit_cli.utils.specs import TunerSpec

    AnyTuner = Tuner | Bundle | str | Path


_OF_BASE = ("model", "prediction", "dtype", "device")  # the fields that an evaluation takes


@dataclass(frozen=True)
class EvaluationResult:
    """The evaluation of tuners.

    Attributes:
        quality: figures by condition: `with`, `without` and `reconstruction` in the protocol's unit, the control
            `score`, and for a comparison `against`, `difference` and `score_difference`, each with its 95 % interval
            as NAME_low and NAME_high. An SC-Tuner on scenes has "style"; CLIP score and FID stand under "images".
        details: protocol, data, annotators, resolution, sampler, steps, guidance and tuners.
    """

    quality: dict[str, dict[str, Any]]
    details: dict[str, Any]

    def __getitem__(self, kind: str) -> dict[str, Any]:
        return self.quality[kind]


def evaluate(
    tuners: Sequence[AnyTuner | tuple[AnyTuner, float] | TunerSpec] = (),
    *,
    base: str | Path | Base | BaseConfig = "scenes",
    data: str | Path | Dataset | None = None,
    protocol: str = "scedit",
    against: Sequence[AnyTuner | tuple[AnyTuner, float] | TunerSpec] | None = None,
    images: int | None = None,
    sampling: SamplingOptions = SamplingOptions(),
    weights: str | Path | None = None,
    clip: str | Path | None = None,
    inception: str | Path | None = None,
    keep: str | Path | None = None,
    reporter: Reporter | None = None,
) -> EvaluationResult:
    """Evaluate tuners, attached together, on images with conditions. Each image is drawn with the tuners and without
    them, with the same noise, and passed through the autoencoder; what was drawn is cached, so that a stopped
    evaluation resumes with the same figures.

    Args:
        tuners: tuners, bundles or files, each alone or as (tuner, scale); none evaluates the base.
        base: as for `generate`; of a `BaseConfig` only `model`, `prediction`, `dtype` and `device`.
        data: a dataset folder or shards; the embedded base has held-out scenes by default. Condition images that are
            missing are made first.
        protocol: "scedit" (tolerant consistencies from 0 to 1), or "controlnet++" (the papers' exact figures).
        against: other tuners to compare with, image by image.
        images: the most images.
        sampling: steps, guidance, sampler, seed and batch size.
        weights: a folder with local copies of the annotators' weights.
        clip: a folder with a CLIP model, for CLIP scores.
        inception: a TorchScript file of Inception, for FID.
        keep: a folder for the images, a table of their figures and a contact sheet.

    Raises:
        SceditError: tuners, base, data and protocol do not go together, or weights are missing.
        WorkFailed: memory or disk ran out.
    """
    config = base if isinstance(base, BaseConfig) else BaseConfig(base)
    config.check()
    for name, value in asdict(replace(config, model="")).items():
        if name not in _OF_BASE and value:
            raise SceditError(f"`base.{name}` has no effect in an evaluation", "leave it out", f"base.{name}")
    model = config.model
    request = EvaluationRequest(
        tuner_specs(tuners),
        None if against is None else tuner_specs(against, "against"),
        base=str(model) if isinstance(model, Path) else model,
        data=data,
        protocol=protocol,
        images=images,
        sampling=sampling,
        weights=weights and Path(weights),
        clip=clip and Path(clip),
        inception=inception and Path(inception),
        keep=keep and Path(keep),
        prediction=config.prediction,
        dtype=config.dtype,
        device=config.device,
    )
    check(request)
    found = evaluate_tuners(request, reporter or SILENT)
    return EvaluationResult(found.quality, found.details)
