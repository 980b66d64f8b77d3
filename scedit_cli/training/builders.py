"""The objects that a recipe's sections name: base, tuner, dataset, stream and examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from scedit_cli.conditions import channels_of, is_quick
from scedit_cli.conditions.annotation_spec import AnnotationSpec, make_specs
from scedit_cli.core.bundle import Bundle
from scedit_cli.core.offload import ENCODER
from scedit_cli.core.tuners import CSCTuner, SCTuner, Tuner
from scedit_cli.data.dataset import Dataset, open_dataset
from scedit_cli.data.scenes import SCENE_KINDS, Example
from scedit_cli.data.shard_dataset import ShardDataset, has_condition, open_streamed
from scedit_cli.data.sources.webdataset import is_shards
from scedit_cli.data.stream import Stream
from scedit_cli.inference.denoising import Guidance, check_sampling
from scedit_cli.models.base import DTYPES, Base, load_base
from scedit_cli.models.quantization import quantize
from scedit_cli.recipe import BaseSection, DataSection, SamplesSection, TrainSection, TunerSection
from scedit_cli.training.datasets import check_dataset, first_images, held_out_scenes, rendered_scenes
from scedit_cli.training.trainer import MASK
from scedit_cli.utils.devices import best_device
from scedit_cli.utils.distributed import Processes
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.reporter import SILENT, Reporter

T = TypeVar("T")


def kinds_read(tuner: TunerSection, data: DataSection) -> list[str]:
    """Return the conditions whose images the dataset has to hold; none for an SC-Tuner."""
    return [kind for kind in tuner.kinds if kind not in data.make]


def cached_kinds(tuner: TunerSection, data: DataSection) -> list[str]:
    """Return the kinds of images that a step reads beside the latents."""
    return list(dict.fromkeys([*kinds_read(tuner, data), *([MASK] if data.masked_loss else [])]))


def missing_kinds(tuner: TunerSection, data: DataSection) -> list[str]:
    """Return the tuner's conditions that the data lacks and that are made without a network.

    Raises:
        SceditError: the dataset folder or a shard does not exist.
    """
    return [kind for kind in kinds_read(tuner, data) if is_quick(kind) and not _has(data, kind)]


def _has(data: DataSection, kind: str) -> bool:
    """Return whether any image has a condition of `kind`; of shards only the first samples are read."""
    if data.path is None:
        return kind in SCENE_KINDS
    if not is_shards(data.path):
        return any(kind in item.conditions for item in open_dataset(data.path).items)
    columns = columns_of(data)
    return kind in columns or has_condition(data.path, kind, columns)


def specs_of(data: DataSection, seed: int) -> list[AnnotationSpec]:
    """Return the specs of the conditions that are made while training, whose settings are drawn from `seed`.

    Raises:
        SceditError: a condition needs annotator weights or is unknown, or its settings are invalid.
    """
    specs = make_specs(data.make, data.params, seed=seed, where="data.params:")
    for spec in specs:
        if spec.annotator.weights:
            raise SceditError(
                f"data.make: {spec.kind} needs a network for every image, and is not made while training",
                hint=f"`annotate(DATASET, kinds={spec.kind})` makes it once",
            )
    return specs


def open_base(
    options: BaseSection,
    train: TrainSection,
    samples: SamplesSection,
    device: str | None = None,
    to_train: bool = True,
) -> Base:
    """Return the base in the training precision on `device`, by default an accelerator where there is one. Where its
    weights are quantised or its encoder is offloaded, the whole weights never are on the device.

    Args:
        to_train: whether the U-Net will be called; otherwise its weights stay whole, most of them in the host's memory.

    Raises:
        SceditError: the base cannot be loaded, or cannot be tuned; or there is no accelerator to offload from.
    """
    place = torch.device(device) if device else best_device()
    offloads = train.offload == "encoder" and to_train
    if offloads and place.type == "cpu":
        raise SceditError(
            "train.offload is encoder, and there is no accelerator to offload from: training is on the cpu",
            hint='leave it out; train.memory = "checkpoint" and base.quantize = "int4" save memory here too',
        )
    waits = offloads or options.quantize != "none" or not to_train
    base = load_base(
        options.model,
        dtype=DTYPES[train.precision],
        device="cpu" if waits else place,
        revision=options.revision,
        vae=options.vae,
        vae_revision=options.vae_revision,
        prediction=options.prediction,
    )
    _check_weights(base)
    base = with_prediction(base, train)
    if samples.every:
        _check_samples(base, samples)
    base.unet.to(memory_format=_layout(train))
    if options.quantize != "none" and to_train:
        _ = base.fingerprint, base.parameter_count  # computed now, from the original weights
        quantize(base.unet, options.quantize, place)
    if waits:
        base.place(place, (*ENCODER, "up_blocks") if not to_train else ENCODER if offloads else ())
    return base


def _check_weights(base: Base) -> None:
    """Raise SceditError if a weight of the base is not finite, since its bad losses would be blamed on images."""
    for part, model in base.pipeline().components.items():
        for name, weight in model.named_parameters() if isinstance(model, torch.nn.Module) else ():
            if not weight.isfinite().all():
                raise SceditError(
                    f"base {base.name}: {name} of its {part} holds values that are not numbers (NaN or Inf)",
                    hint="get it again; if they are too large for fp16, take another train.precision",
                )


def _check_samples(base: Base, samples: SamplesSection) -> None:
    """Check that the base can draw the sample grids, before hours of training; raise SceditError otherwise."""
    try:
        check_sampling(base, samples.steps, Guidance(samples.guidance, control=samples.control_guidance))
    except SceditError as error:
        key = "control_guidance" if error.field == "sampler.control_guidance" else "steps"
        raise SceditError(f"samples.{key} is {getattr(samples, key):g}: {error.message}", error.hint) from error


@contextmanager
def tf32(is_wanted: bool) -> Iterator[None]:
    """Switch TF32 products of float32 matrices on or off within the block, on accelerators that support it.

    PyTorch has an older and a newer API for this, and refuses to read the older one where the two disagree. Both are
    set to agree here, unless they disagreed before; then only the newer one is set.
    """
    cudnn = torch.backends.cudnn
    newer = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, torch.backends.mkldnn.matmul)
    before = [each.fp32_precision for each in newer]
    of_products, of_cudnn = _older(torch.get_float32_matmul_precision), _older(lambda: cudnn.allow_tf32)
    if is_wanted and of_products == "highest":
        torch.backends.cuda.matmul.allow_tf32 = True  # The CPU's products stay unchanged.
    elif of_products and not is_wanted:
        torch.set_float32_matmul_precision("highest")
    if of_cudnn is not None:
        cudnn.allow_tf32 = is_wanted
    for each in newer[:3]:
        if (each.fp32_precision == "tf32") != is_wanted:
            each.fp32_precision = "tf32" if is_wanted else "ieee"
    try:
        yield
    finally:
        if of_products:
            torch.set_float32_matmul_precision(of_products)
        if of_cudnn is not None:
            cudnn.allow_tf32 = of_cudnn
        for each, precision in zip(newer, before, strict=True):
            each.fp32_precision = "none"  # The setting follows a wider one again, if it came from there.
            if each.fp32_precision != precision:
                each.fp32_precision = precision


def _older(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except RuntimeError:  # It disagrees with the newer settings.
        return None


def find_shards(
    data: DataSection, kinds: Sequence[str], base: Base, reporter: Reporter = SILENT
) -> ShardDataset | None:
    """Return the shards to train on, with conditions of `kinds`, or None where the recipe names none.

    Raises:
        SceditError: a shard is missing or damaged, or its number of samples is unknown; or the recipe has options for
            shards but names none.
    """
    if not data.path or not is_shards(data.path):
        for key in ("size", "columns", "upscale"):
            if getattr(data, key):
                raise SceditError(
                    f"data.{key} is for shards that are streamed, and data.path names none",
                    hint="leave it out; scedit prepare brings images to their size",
                )
        return None
    size = tuple(data.size or (base.defaults.resolution,) * 2)
    return open_streamed(data.path, size, tuple(kinds), columns_of(data), data.upscale, reporter)


def columns_of(data: DataSection) -> dict[str, str]:
    """Return the file names of a streamed sample's parts, by part."""
    return dict(column.split("=", 1) for column in data.columns)


def open_stream(
    shards: ShardDataset, data: DataSection, train: TrainSection, processes: Processes, reporter: Reporter = SILENT
) -> Stream:
    """Return the batches of `shards`, of which this process gets its share."""
    return Stream(
        shards,
        train.batch_size,
        train.seed,
        shuffle=data.shuffle,
        unusable=data.unusable,
        share=(processes.index, processes.count),
        specs=specs_of(data, train.seed),
        workers=data.workers,
        reporter=reporter,
    )


def find_dataset(tuner: TunerSection, data: DataSection, base: Base, reporter: Reporter = SILENT) -> Dataset:
    """Return the images to train on: a dataset folder, or rendered scenes where the recipe names none.

    Raises:
        SceditError: the folder or a condition does not exist, or `base` cannot train on the images.
    """
    if data.path:
        dataset = open_dataset(data.path)
    else:
        dataset = rendered_scenes(data.scenes, data.seed, data.look, kinds_read(tuner, data), reporter)
    check_dataset(dataset, base, cached_kinds(tuner, data))
    return dataset


def fresh_tuner(options: TunerSection, train: TrainSection, base: Base) -> Tuner | Bundle:
    """Return the tuner, or for several conditions a bundle, before its first step, fixed by `train.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(train.seed)
        if options.kind == "sc":
            tuner = SCTuner.for_unet(base.unet, options.down_ratio)
        else:
            tuners = [
                CSCTuner.for_unet(
                    base.unet,
                    kind,
                    hint_kernel=options.hint_kernel,
                    hint_channels=options.hint_channels,
                    hint_width=options.hint_width,
                    down_ratio=options.down_ratio,
                    in_channels=channels_of(kind),
                )
                for kind in options.kinds
            ]
            tuner = tuners[0] if len(tuners) == 1 else Bundle(tuners)
    return tuner.to(memory_format=_layout(train))


def examples(
    samples: SamplesSection, data: DataSection, kinds: Sequence[str], specs: Sequence[AnnotationSpec], dataset: Dataset
) -> list[Example]:
    """Return the examples of the sample grids: held-out scenes, or the first images of a dataset folder, with their
    conditions of `kinds` and those that `specs` make."""
    if data.path:
        shown = first_images(dataset, samples.count, kinds)
    else:
        shown = held_out_scenes(samples.count, samples.seed, kinds, dataset.buckets[0][0], data.look)
    for spec in specs:
        for number, each in enumerate(shown):
            fixed = spec.drawn(str(number))
            each.makers[spec.kind] = fixed
            each.conditions[spec.kind] = fixed.load(fixed.settings(""))([each.image])[0]
    return shown


def facts(
    options: BaseSection, train: TrainSection, recipe: str, base: Base, dataset: Dataset, steps: int
) -> dict[str, str]:
    """Return the metadata of the tuner file about how the tuner was made, in `steps` steps; `recipe` is the resolved
    recipe's text."""
    known = {
        "base": base.name,
        "base_revision": base.revision,
        "base_fingerprint": base.fingerprint,
        "base_quantize": None if options.quantize == "none" else options.quantize,
        "base_vae": base.vae_name,
        "base_vae_revision": base.vae_revision,
        "prediction_type": base.prediction_type,
        "recipe": recipe,
        "zero_terminal_snr": "true" if train.zero_terminal_snr else None,
        "steps": str(steps),
        "modelspec.resolution": "x".join(map(str, dataset.buckets[0])),
    }
    return {key: value for key, value in known.items() if value is not None}


def _layout(train: TrainSection) -> torch.memory_format:
    return torch.channels_last if train.channels_last else torch.contiguous_format


def with_prediction(base: Base, options: TrainSection) -> Base:
    """Return the base with a scheduler of the trained prediction type, so that training and samples agree."""
    prediction = base.prediction_type if options.prediction == "base" else options.prediction
    if options.zero_terminal_snr and prediction == "epsilon":
        raise SceditError(
            f"train.zero_terminal_snr: base {base.name} predicts epsilon, of which pure noise tells nothing",
            hint='add train.prediction = "v_prediction", or leave zero_terminal_snr out',
        )
    return base.rescheduled(prediction, options.zero_terminal_snr)

