"""From a recipe to the things that it names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from scedit_cli.conditions import channels_of, is_quick
from scedit_cli.conditions.annotation_spec import AnnotationSpec, make_specs
from scedit_cli.core.tuners import CSCTuner, SCTuner, Tuner
from scedit_cli.data.dataset import Dataset, open_dataset
from scedit_cli.data.scenes import Example
from scedit_cli.data.shard_dataset import ShardDataset, has_condition, open_streamed
from scedit_cli.data.sources.webdataset import is_shards
from scedit_cli.data.stream import Stream
from scedit_cli.inference.denoising import Guidance, check_sampling
from scedit_cli.models.base import DTYPES, Base, load_base
from scedit_cli.recipe import DataSection, Recipe, SamplesSection, TrainSection
from scedit_cli.training.datasets import (
    OnStep,
    check_dataset,
    first_of,
    first_pictures,
    held_out_scenes,
    rendered_scenes,
)
from scedit_cli.training.distributed import Processes
from scedit_cli.training.trainer import MASK
from scedit_cli.training.validation import held_out_count
from scedit_cli.utils.errors import SceditError, not_installed

T = TypeVar("T")

_QUANTIZED = {"int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}  # torchao's


def kinds(recipe: Recipe) -> list[str]:
    """The conditions that the tuner takes: one, or none for an SC-Tuner."""
    return [recipe.tuner.condition] if recipe.tuner.condition else []


def kinds_read(recipe: Recipe) -> list[str]:
    """Those of which the dataset has pictures."""
    return [kind for kind in kinds(recipe) if kind not in recipe.data.make]


def made_where_missing(recipe: Recipe) -> Recipe:
    """The recipe with its condition in `data.make` where the data has none of it, and no network is needed to make it.

    Raises:
        SceditError: no such dataset folder or shard.
    """
    data = recipe.data
    missing = [kind for kind in kinds_read(recipe) if data.path and is_quick(kind) and not _has(data, kind)]
    return recipe.model_copy(update={"data": data.model_copy(update={"make": [*data.make, *missing]})})


def _has(data: DataSection, kind: str) -> bool:
    """Whether some picture has a condition of `kind`, among the first ones of shards."""
    if not is_shards(data.path):
        return any(kind in item.conditions for item in open_dataset(data.path).items)
    columns = columns_of(data)
    return kind in columns or has_condition(data.path, kind, columns)


def orders(recipe: Recipe) -> list[AnnotationSpec]:
    """For those that are made while training.

    Raises:
        SceditError: one that needs weights, an unknown one, or settings that cannot be.
    """
    made = make_specs(recipe.data.make, recipe.data.params, seed=recipe.train.seed, option="data.params:")
    for order in made:
        if order.annotator.weights:
            raise SceditError(
                f"data.make: {order.kind} needs a network for every picture, and is not made while training",
                hint=f"scedit annotate DATASET --cond {order.kind} makes it once",
            )
    return made


def open_base(recipe: Recipe, device: str | None = None) -> Base:
    """The base, in the precision to train in, on `device`; by default an accelerator where there is one.

    Raises:
        SceditError: it cannot be loaded, or cannot be tuned.
    """
    base = load_base(
        recipe.base.model,
        dtype=DTYPES[recipe.train.precision],
        device=device,
        revision=recipe.base.revision,
        vae=recipe.base.vae,
        vae_revision=recipe.base.vae_revision,
        prediction=recipe.base.prediction,
    )
    _check_weights(base)
    base = _taught(base, recipe.train)
    if recipe.samples.every:
        _check_samples(base, recipe.samples)
    base.unet.to(memory_format=_layout(recipe))
    if recipe.base.quantize != "none":
        _quantize(base, recipe.base.quantize)
    return base


def _check_weights(base: Base) -> None:
    """Raises SceditError where a weight of the base is no number: the losses that it spoils would be blamed on images.
    """
    for part, model in base.pipeline().components.items():
        for name, weight in model.named_parameters() if isinstance(model, torch.nn.Module) else ():
            if not weight.isfinite().all():
                raise SceditError(
                    f"base {base.name}: {name} of its {part} holds values that are not numbers (NaN or Inf)",
                    hint="get it anew; if they are too large for fp16, take another train.precision",
                )


def _check_samples(base: Base, samples: SamplesSection) -> None:
    """Raises SceditError for grids that this base could not draw, before hours of training for them."""
    try:
        check_sampling(base, samples.steps, Guidance(samples.guidance))
    except SceditError as error:
        raise SceditError(f"samples.steps is {samples.steps}: {error.message}", error.hint) from error


@contextmanager
def tf32(is_wanted: bool) -> Iterator[None]:
    """Within, accelerators that can multiply float32 matrices in TF32 do, or do not.

    PyTorch has an older and a newer way to set this, and refuses to read the older where the two disagree. They go on
    agreeing here, unless they disagreed before; then the newer is set alone.
    """
    cudnn = torch.backends.cudnn
    newer = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, torch.backends.mkldnn.matmul)
    before = [each.fp32_precision for each in newer]
    of_products, of_cudnn = _older(torch.get_float32_matmul_precision), _older(lambda: cudnn.allow_tf32)
    if is_wanted and of_products == "highest":
        torch.backends.cuda.matmul.allow_tf32 = True  # the CPU's products stay what they are
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
            each.fp32_precision = "none"  # so that what came from a wider setting goes on following that
            if each.fp32_precision != precision:
                each.fp32_precision = precision


def _older(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except RuntimeError:  # it disagrees with the newer settings
        return None


def find_shards(recipe: Recipe, base: Base, on_step: OnStep | None = None) -> ShardDataset | None:
    """The shards to learn from; None where the recipe names none.

    Raises:
        SceditError: one is missing or damaged, or nobody knows how many samples it holds; or there are none, and the
            recipe says how to read them.
    """
    data = recipe.data
    if not data.path or not is_shards(data.path):
        for key in ("size", "columns", "upscale"):
            if getattr(data, key):
                raise SceditError(
                    f"data.{key} is for shards that are streamed, and data.path names none",
                    hint="leave it out; scedit prepare brings pictures to their size",
                )
        return None
    size = tuple(data.size or (base.defaults.resolution,) * 2)
    return open_streamed(data.path, size, tuple(cached_kinds(recipe)), columns_of(data), data.upscale, on_step)


def columns_of(data: DataSection) -> dict[str, str]:
    """What a streamed sample's files are called, by what they are."""
    return dict(column.split("=", 1) for column in data.columns)


def open_stream(
    recipe: Recipe, shards: ShardDataset, processes: Processes, on_fault: Callable[[str], None] | None = None
) -> Stream:
    """The batches of pictures out of `shards`, of which this process gets its part."""
    return Stream(
        shards,
        recipe.train.batch_size,
        recipe.train.seed,
        shuffle=recipe.data.shuffle,
        unusable=recipe.data.unusable,
        share=(processes.index, processes.count),
        orders=orders(recipe),
        workers=recipe.data.workers,
        on_fault=on_fault,
    )


def find_dataset(
    recipe: Recipe, base: Base, on_step: OnStep | None = None, shards: ShardDataset | None = None
) -> Dataset:
    """The pictures to learn from, rendered where the recipe names no dataset folder; of `shards` the first ones alone,
    to show and to measure with.

    Raises:
        SceditError: no such folder or condition, or pictures that `base` cannot learn.
    """
    data, wanted = recipe.data, kinds_read(recipe)
    if shards:
        shown = recipe.samples.count if recipe.samples.every else 1
        dataset = first_of(shards, max(held_out_count(sum(shards.counts), recipe.validation), shown))
    elif data.path:
        dataset = open_dataset(data.path)
    else:
        dataset = rendered_scenes(data.scenes, data.seed, data.look, wanted, on_step)
    check_dataset(dataset, base, cached_kinds(recipe))
    return dataset


def cached_kinds(recipe: Recipe) -> list[str]:
    """The kinds of picture that a step reads beside the latents."""
    return [*kinds_read(recipe), *([MASK] if recipe.data.masked_loss else [])]


def fresh_tuner(recipe: Recipe, base: Base) -> Tuner:
    """The tuner before its first step, the same for the same `train.seed`."""
    options = recipe.tuner
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        if options.kind == "sc":
            tuner = SCTuner.for_unet(base.unet, options.down_ratio)
        else:
            tuner = CSCTuner.for_unet(
                base.unet,
                options.condition,
                hint_kernel=options.hint_kernel,
                hint_channels=options.hint_channels,
                hint_width=options.hint_width,
                down_ratio=options.down_ratio,
                in_channels=channels_of(options.condition),
            )
    return tuner.to(memory_format=_layout(recipe))


def examples(recipe: Recipe, dataset: Dataset) -> list[Example]:
    """What the grids show: held-out scenes, or the first pictures of a dataset folder."""
    samples, data = recipe.samples, recipe.data
    if data.path:
        shown = first_pictures(dataset, samples.count, kinds_read(recipe))
    else:
        shown = held_out_scenes(samples.count, samples.seed, kinds_read(recipe), dataset.buckets[0][0], data.look)
    for order in orders(recipe):
        for number, each in enumerate(shown):
            maker = order.drawn(str(number))
            each.makers[order.kind] = maker
            each.conditions[order.kind] = maker.load(maker.settings(""))([each.image])[0]
    return shown


def facts(recipe: Recipe, base: Base, dataset: Dataset) -> dict[str, str]:
    """What the tuner file says about how it was made."""
    known = {
        "base": base.name,
        "base_revision": base.revision,
        "base_fingerprint": base.fingerprint,
        "base_vae": base.vae_name,
        "base_vae_revision": base.vae_revision,
        "prediction_type": base.prediction_type,
        "recipe": recipe.to_toml(),
        "zero_terminal_snr": "true" if recipe.train.zero_terminal_snr else None,
        "steps": str(recipe.train.steps),
        "modelspec.resolution": "x".join(map(str, dataset.buckets[0])),
    }
    return {key: value for key, value in known.items() if value is not None}


def _layout(recipe: Recipe) -> torch.memory_format:
    return torch.channels_last if recipe.train.channels_last else torch.contiguous_format


def _taught(base: Base, options: TrainSection) -> Base:
    """The base with a scheduler that tells what the U-Net is to learn, so that training and samples agree."""
    prediction = base.prediction_type if options.prediction == "base" else options.prediction
    if options.zero_terminal_snr and prediction == "epsilon":
        raise SceditError(
            f"train.zero_terminal_snr: base {base.name} predicts epsilon, of which pure noise tells nothing",
            hint='add train.prediction = "v_prediction", or leave zero_terminal_snr out',
        )
    return base.rescheduled(prediction, options.zero_terminal_snr)


def _quantize(base: Base, how: str) -> None:
    """Holds the weights of the U-Net's linear layers in eight bits."""
    try:
        from torchao import quantization
    except ImportError as error:
        raise not_installed(f"base.quantize {how}", "torchao", "quantize") from error
    _ = base.fingerprint  # of the weights as they were
    quantization.quantize_(base.unet, getattr(quantization, _QUANTIZED[how])())
