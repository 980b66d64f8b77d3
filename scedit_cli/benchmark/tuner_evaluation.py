"""The evaluation of tuners on held-out scenes, or on anybody's images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scedit_cli import conditions
from scedit_cli.benchmark.architecture import architecture_of
from scedit_cli.benchmark.config import BenchConfig
from scedit_cli.benchmark.evaluation_report import contact_sheet, per_image_csv
from scedit_cli.benchmark.measure import settled
from scedit_cli.benchmark.requests import EvaluationRequest
from scedit_cli.conditions.protocols import Protocol, find_protocol
from scedit_cli.core.tuners import SCTuner
from scedit_cli.data.dataset import Dataset, open_dataset
from scedit_cli.data.evaluation_set import EvaluationSet, evaluation_set
from scedit_cli.data.image_cache import ImageCache
from scedit_cli.data.images import save_image
from scedit_cli.data.scenes import POSSIBLE_KINDS, SCENE_KINDS
from scedit_cli.data.shard_dataset import has_condition, open_streamed
from scedit_cli.data.sources.webdataset import is_shards
from scedit_cli.inference.controls import (
    PlacedTuner,
    as_trained,
    check_base,
    load_placed,
    on_device,
    prediction_note,
    rescheduled_for,
)
from scedit_cli.inference.evaluation import RECONSTRUCTION, WITHOUT, Arm, Evaluated, Evaluator, scored
from scedit_cli.inference.frechet import frechet_distance
from scedit_cli.inference.image_features import clip_measure, inception_measure, missing
from scedit_cli.inference.sampler import check_size
from scedit_cli.models.base import DTYPES, Base, load_base
from scedit_cli.models.loading import EMBEDDED
from scedit_cli.scenes import HELD_OUT_SEED
from scedit_cli.training.datasets import cache_folder, first_of, rendered_scenes
from scedit_cli.training.evaluation import style_score
from scedit_cli.utils.devices import best_device, device_here
from scedit_cli.utils.distributed import Share, launched
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import expanded, whole, write_whole
from scedit_cli.utils.reporter import SILENT, Reporter
from scedit_cli.utils.result_cache import ResultCache
from scedit_cli.utils.specs import TunerSpec

SCENES = 128  # by default
_SHARD_IMAGES = 1000  # by default: shards may hold millions


@dataclass(frozen=True)
class TunerEvaluation:
    """The evaluation of tuners.

    Attributes:
        setting: base, resolution, precision and device.
        quality: figures by condition, "style" for an SC-Tuner on scenes, and "images" for those of whole images.
        details: what a table in a paper states: protocol, data, annotators, resolution, sampler, steps, tuners; and
            under "missing" the weights to give for further figures.
    """

    setting: BenchConfig
    quality: dict[str, dict[str, Any]]
    details: dict[str, Any] = field(default_factory=dict)


def evaluate_tuners(
    request: EvaluationRequest,
    reporter: Reporter = SILENT,
    check: Callable[[BenchConfig], None] = lambda setting: None,
) -> TunerEvaluation:
    """Return the evaluation that `request` describes; all processes of a launch share its batches.

    Args:
        check: called with the setting before anything is drawn.

    Raises:
        SceditError: tuners, base, data and protocol do not go together, weights of an annotator are missing, or an
            image does not suit the base.
        WorkFailed: memory or disk ran out.
    """
    share = Share.mine()
    placed, others = _placed(request.tuners, "tuners"), _placed(request.against or (), "against")
    protocol = find_protocol(request.protocol)
    base, model = _opened(request, [*placed, *others], reporter)
    base = rescheduled_for([*placed, *others], base)
    placed, others = ([on_device(each, base.device) for each in several] for several in (placed, others))
    on_scenes = request.data is None
    is_style = on_scenes and placed and not any(each.tuner.condition for each in (*placed, *others))
    cache = ImageCache(cache_folder() / "evaluations")
    images = None
    if is_style:
        _check_style(request)
    else:
        images = _images(request, base, protocol, [*placed, *others], cache, reporter)
    size = images.sizes[0] if images else (base.defaults.resolution,) * 2
    setting = settled(BenchConfig(model, None, size[0], request.dtype), architecture_of(base), base.device)
    setting = replace(setting, batch=None, resolution=size[0])
    check(setting)
    details = _details(request, base, protocol, placed, others, images)
    if is_style:
        return TunerEvaluation(setting, {"style": _style(request, base, placed, reporter)}, details)
    arms = [_arm("with", placed), WITHOUT, RECONSTRUCTION]
    if request.against is not None:
        arms.append(_arm("against", others))
    features = {}
    if request.clip:
        features["clip_score"] = clip_measure(expanded(request.clip), base.device)
    if request.inception:
        features["inception"] = inception_measure(expanded(request.inception), base.device)
    known = ResultCache(cache.folder)
    evaluator = Evaluator(
        base, images, protocol, request.sampling, cache=cache, known=known, share=share, extras=features
    )
    keep = request.keep and expanded(request.keep)
    on_batch = _saver(keep, images) if keep else None
    if features.get("inception"):
        real = [(places, features["inception"](images.images(places), [])) for places in share.of(evaluator.batches)]
        real = np.concatenate([each for _, each in sorted(share.gathered(real), key=lambda row: row[0])])
    found = evaluator.run(arms, reporter.stage("evaluating"), on_batch)
    quality = {
        kind: _named(scored(protocol, kind, found.figures).figures(), on_scenes) for kind in images.specs
    }
    whole_images = _of_images(found, real if features.get("inception") else None)
    if whole_images:
        quality["images"] = whole_images | {"images": len(images)}
    if share.is_first:
        if keep:
            details |= _reported(keep, evaluator, protocol, found, arms)
        cache.prune()
    return TunerEvaluation(setting, quality, details)


def _placed(tuners: Sequence[TunerSpec], field: str) -> list[PlacedTuner]:
    return [each for number, spec in enumerate(tuners) for each in load_placed(spec, f"{field}[{number}]")]


def _opened(request: EvaluationRequest, placed: Sequence[PlacedTuner], reporter: Reporter) -> tuple[Base, str]:
    """Return the base, and the name of the model with the commit that its tuners were trained on."""
    if isinstance(request.base, Base):
        base, model = request.base, request.base.name
    else:
        model = as_trained(request.base or EMBEDDED, placed)
        device = request.device or (device_here(best_device().type) if launched() > 1 else None)
        base = load_base(
            model,
            dtype=DTYPES[request.dtype] if request.dtype else None,
            device=device,
            prediction=request.prediction,
        )
        if told := prediction_note(base, placed):
            reporter.note(told)
    for each in placed:
        if "format" in each.tuner.metadata:
            check_base(each, base)
    return base, model


def _images(
    request: EvaluationRequest,
    base: Base,
    protocol: Protocol,
    placed: Sequence[PlacedTuner],
    cache: ImageCache,
    reporter: Reporter,
) -> EvaluationSet:
    """Return the images to evaluate on; every annotator that is needed is loaded, so that errors come first."""
    taken = list(dict.fromkeys(each.tuner.condition for each in placed if each.tuner.condition))
    for kind in taken:
        if kind not in conditions.KINDS:
            told = f"no kind of condition is called {kind!r}, as a tuner's is"
            raise SceditError(told, "name it before the file, as in canny=FILE", "tuners")
        protocol.check(kind)
    if request.data is None:
        if unknown := [kind for kind in taken if kind not in POSSIBLE_KINDS]:
            told, hint = f"scenes have no {unknown[0]} conditions to score", f"they have {', '.join(POSSIBLE_KINDS)}"
            raise SceditError(told, f"{hint}; `data` names other images")
        kinds = taken or [kind for kind in SCENE_KINDS if kind in protocol.kinds]
        drawn = request.images or SCENES, HELD_OUT_SEED, "plain", kinds, reporter.stage("rendering")
        dataset = rendered_scenes(*drawn, size=base.defaults.resolution)
    else:
        dataset = _dataset(request, base, taken, reporter)
        kinds = taken or [kind for kind in dataset.kinds if kind in protocol.kinds]
    if not kinds and not (request.clip or request.inception):
        raise SceditError(
            f"{request.data} has no condition images that protocol {protocol.name} measures",
            hint=f"`annotate({request.data}, kinds=canny)` adds some; `clip` or `inception` needs none",
        )
    images = evaluation_set(
        dataset,
        kinds,
        scenes=request.data is None or base.family == "scenes",
        most=request.images,
        weights=request.weights and expanded(request.weights),
        device=str(base.device),
        cache=cache,
    )
    images.check_files()
    for (width, height), item in zip(images.sizes, images.items, strict=True):
        check_size(base, height, width, str(item.image))
    for kind in kinds:
        for maker in dict.fromkeys(images.makers(kind, range(len(images)))):
            try:
                maker.load(maker.settings(""), str(base.device))
            except SceditError as error:
                lacking = any(kind not in item.conditions for item in images.items)
                why = f"{request.data} has no {kind} images" if lacking else f"images are measured by {kind}"
                raise type(error)(f"{why}, and the annotator cannot be loaded: {error.message}", error.hint) from error
    return images


def _dataset(request: EvaluationRequest, base: Base, kinds: Sequence[str], reporter: Reporter) -> Dataset:
    if isinstance(request.data, Dataset):
        return request.data
    if not is_shards(str(request.data)):
        return open_dataset(expanded(request.data))
    size = (base.defaults.resolution,) * 2
    # Conditions that the shards do not hold are made of the images, as in a folder.
    held = tuple(kind for kind in kinds if has_condition(str(request.data), kind, {}))
    shards = open_streamed(str(request.data), size, held, reporter=reporter.stage("counting"))
    return first_of(shards, request.images or min(_SHARD_IMAGES, sum(shards.counts)))


def _arm(name: str, placed: Sequence[PlacedTuner]) -> Arm:
    return Arm(name, tuple(each.tuner for each in placed), tuple(each.scale for each in placed))


def _style(
    request: EvaluationRequest, base: Base, placed: Sequence[PlacedTuner], reporter: Reporter
) -> dict[str, Any]:
    if len(placed) > 1 or request.against is not None:
        hint = "scedit merge makes one of several; `data` names images with conditions, on which tuners are compared"
        raise SceditError("the style of one SC-Tuner is measured at a time", hint, "tuners")
    [one] = placed
    how = {"scenes": request.images or SCENES, "sampling": request.sampling, "reporter": reporter.stage("evaluating")}
    return asdict(style_score(base, one.tuner, scale=one.scale, **how))


def _check_style(request: EvaluationRequest) -> None:
    """Raise SceditError for an option that has no effect where the style of an SC-Tuner is measured."""
    for name in ("clip", "inception", "weights", "keep"):
        if getattr(request, name) is not None:
            told = f"`{name}` {getattr(request, name)}: it has no effect on the style of an SC-Tuner on scenes"
            raise SceditError(told, "leave it out, or name images with conditions by `data`", name)
    if request.sampling.control_guidance != 1:
        told = f"`control_guidance` {request.sampling.control_guidance:g}: an SC-Tuner takes no condition images"
        raise SceditError(told, "leave it out", "control_guidance")
    if request.protocol != "scedit":
        told = f"`protocol` {request.protocol}: it measures conditions, and an SC-Tuner on scenes has none"
        raise SceditError(told, "leave it out, or name images with conditions by `data`", "protocol")


def _named(figures: dict[str, Any], on_scenes: bool) -> dict[str, Any]:
    return figures | {"scenes": figures.pop("images")} if on_scenes else figures


def _of_images(found: Evaluated, real: np.ndarray | None) -> dict[str, float]:
    """Return CLIP scores and FIDs by name and arm: `clip_score`, `clip_score_without`, and so on."""
    figures = {}
    for arm, values in found.further.items():
        suffix = "" if arm == "with" else f"_{arm}"
        if "clip_score" in values:
            figures[f"clip_score{suffix}"] = max(float(values["clip_score"].mean()), 0.0)
        if "inception" in values and len(real) > 1:
            pair = (torch.from_numpy(each) for each in (values["inception"], real))
            figures[f"fid{suffix}"] = frechet_distance(*pair, scaled=False)
    return figures


def _details(
    request: EvaluationRequest,
    base: Base,
    protocol: Protocol,
    placed: Sequence[PlacedTuner],
    others: Sequence[PlacedTuner],
    images: EvaluationSet | None,
) -> dict[str, Any]:
    sampling = request.sampling
    makers = {
        kind: sorted({maker.by for maker in images.makers(kind, range(len(images)))}) for kind in images.specs
    } if images else {}  # fmt: skip
    data = getattr(request.data, "path", request.data)
    return {
        "protocol": protocol.name,
        "data": "held-out scenes" if data is None else str(data),
        "images": len(images) if images else request.images or SCENES,
        "figures": {
            kind: f"{protocol.figure(kind)}, {'less' if kind in protocol.less_is_better else 'more'} is better"
            for kind in makers
        },
        "annotators": {kind: ", ".join(names) for kind, names in makers.items()},
        "resolution": sorted({f"{width}x{height}" for width, height in images.sizes}) if images else [],
        "sampler": sampling.scheduler or type(base.scheduler).__name__,
        "steps": sampling.steps or base.defaults.steps,
        "guidance": base.defaults.guidance if sampling.guidance is None else sampling.guidance,
        "control_guidance": sampling.control_guidance,
        "seed": sampling.seed,
        "tuners": [_described(each) for each in placed],
        "against": [_described(each) for each in others],
        "missing": missing(request.clip, request.inception) if protocol.name != "scedit" else {},
    }


def _described(placed: PlacedTuner) -> dict[str, Any]:
    return {"file": placed.file, "condition": placed.tuner.condition, "scale": placed.scale,
            "kind": "sc" if isinstance(placed.tuner, SCTuner) else "csc"}  # fmt: skip


def _saver(keep: Path, images: EvaluationSet) -> Callable[[str, list[int], list[Image.Image]], None]:
    def save(arm: str, places: list[int], drawn: list[Image.Image]) -> None:
        for place, image in zip(places, drawn, strict=True):
            file = keep / "images" / arm / f"{images.numbers[place]:06d}.png"
            with whole(file) as part:
                save_image(image, part)

    return save


def _reported(
    keep: Path, evaluator: Evaluator, protocol: Protocol, found: Evaluated, arms: Sequence[Arm]
) -> dict[str, str]:
    """Write the table of all images and the contact sheet; return their paths by name."""
    table, sheet = keep / "images.csv", keep / "contact-sheet.png"
    write_whole(table, per_image_csv(evaluator.images, found))
    if evaluator.images.specs:
        with whole(sheet) as part:
            save_image(contact_sheet(evaluator, protocol, found, arms), part)
    return {"csv": str(table)} | ({"contact_sheet": str(sheet)} if evaluator.images.specs else {})
