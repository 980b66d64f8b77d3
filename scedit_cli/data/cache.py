"""The cache of a dataset: latents and text, encoded once and kept in `cache/` by content and settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor, nn

from scedit_cli.conditions import channels_of
from scedit_cli.conditions.annotation_spec import AnnotationSpec
from scedit_cli.data.dataset import Dataset, Size
from scedit_cli.data.digests import digests
from scedit_cli.data.hints import Hints, MadeHints, read_photograph
from scedit_cli.data.tensor_store import Layout, TensorStore
from scedit_cli.models.base import Base
from scedit_cli.models.fingerprint import own_weights
from scedit_cli.utils.errors import SceditError, WorkFailed, memory_told
from scedit_cli.utils.reporter import SILENT, Reporter

PIXELS_AT_ONCE = 2**19  # encoded together: 32 images of 128², 2 of 512²
_TEXTS_AT_ONCE = 64
_STARVED = "end other programs, or prepare smaller images with `size`; what is encoded already is kept"

Wait = Callable[[], None]


@dataclass(frozen=True)
class Cache:
    """A dataset of N images as training reads it. Latents and text stay on disk until a batch needs them.

    Attributes:
        buckets: (N,) the index in `bucket_sizes` of each image's size; a batch holds images of one bucket.
        sizes: (N, 6) SDXL's size conditioning: original height and width, crop top and left, height and width.
        hints: the hints by kind.
        conditions: by kind, the digest of each image's condition image, for kinds that are read from files.
        weights: (N,) factors on the images' losses; None where all are 1.
        zeroes_dropped_text: whether a dropped caption becomes zeros instead of the empty prompt.
    """

    latents: TensorStore
    text: TensorStore
    images: tuple[str, ...]  # keys into `latents`
    captions: tuple[str, ...]  # keys into `text`
    empty: str  # key into `text` of the empty prompt
    buckets: Tensor
    bucket_sizes: tuple[Size, ...]
    sizes: Tensor
    hints: dict[str, Hints | MadeHints]
    conditions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    weights: Tensor | None = None
    zeroes_dropped_text: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self, indices: Sequence[int]) -> str:
        """Return 32 hex digits over the content of these images, their captions, condition images, sizes and weights,
        in this order."""
        digest = hashlib.sha256()
        for index in indices:
            known = [self.images[index], self.captions[index], *(kind[index] for kind in self.conditions.values())]
            weight = "" if self.weights is None else f" {self.weights[index].item()}"
            digest.update(f"{' '.join(known)} {self.sizes[index].tolist()}{weight}\n".encode())
        return digest.hexdigest()[:32]

    def moments_of(self, indices: Sequence[int]) -> Tensor:
        """Return the float32 moments of the latents' distributions, unscaled and as `Base.encode_images` returns them,
        for images of one bucket. Moments are cached, not latents, so that each step can draw its own noise."""
        return self.latents.get([self.images[index] for index in indices])["moments"]

    def text_of(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return the encoded captions of these images by name, each (B, ...)."""
        return self.text.get([self.captions[index] for index in indices])

    @property
    def dropped_text(self) -> dict[str, Tensor]:
        """The U-Net's inputs for a dropped caption by name, each (1, ...). They are those that guidance uses for an
        empty prompt, so that training and sampling share the unconditional branch."""
        empty = self.text.get([self.empty])
        return {name: torch.zeros_like(each) for name, each in empty.items()} if self.zeroes_dropped_text else empty


def cache_latents_and_text(
    dataset: Dataset,
    base: Base,
    kinds: Sequence[str] = (),
    reporter: Reporter = SILENT,
    specs: Sequence[AnnotationSpec] = (),
    share: tuple[int, int] = (0, 1),
    wait: Wait | None = None,
) -> Cache:
    """Encode everything that training needs of `dataset`, except for entries that its folder `cache/` already holds.

    Args:
        kinds: the kinds of the hints that are read from files.
        reporter: gets (images and captions encoded, of how many).
        specs: those of the hints that are made from the images on demand.
        share: (number, of how many): this process' part of the work, where several share a folder and all call this.
        wait: a barrier: it returns once all these processes have called it.

    Raises:
        SceditError: an image cannot be read or has another size than its line says; condition images of a kind are
            missing or have other sizes than their images; or a weight is invalid.
        WorkFailed: the latents are not numbers, or another process has not encoded its share.
    """
    largest = max(dataset.buckets, key=lambda size: size[0] * size[1])
    hints: dict[str, Hints | MadeHints]
    read = {kind: dataset.condition_paths(kind) for kind in kinds}
    hints = {kind: Hints(paths, largest, channels=channels_of(kind)) for kind, paths in read.items()}
    hints |= {spec.kind: MadeHints([i.image for i in dataset.items], largest, spec) for spec in specs}
    images, texts = len(dataset), len(_distinct(dataset))
    latents, keys = cache_latents(dataset, base, reporter.units(0, images + texts), share, wait)
    text, captions = cache_text(dataset, base, reporter.units(images, images + texts), share, wait)
    place = {size: number for number, size in enumerate(dataset.buckets)}
    conditioning = [
        (*(item.original or size)[::-1], *item.crop, *size[::-1])
        for item, size in zip(dataset.items, dataset.sizes, strict=True)
    ]
    return Cache(
        latents=latents,
        text=text,
        images=tuple(keys),
        captions=tuple(captions),
        empty=_text_key(""),
        buckets=torch.tensor([place[size] for size in dataset.sizes]),
        bucket_sizes=dataset.buckets,
        sizes=torch.tensor(conditioning),
        hints=hints,
        conditions={
            kind: tuple(digests(dataset.path, paths, dataset.path / "cache" / f"{kind}.json"))
            for kind, paths in read.items()
        },
        weights=torch.tensor(dataset.weights) if set(dataset.weights) != {1.0} else None,
        zeroes_dropped_text=base.zeroes_dropped_text,
    )


def cache_latents(
    dataset: Dataset,
    base: Base,
    reporter: Reporter = SILENT,
    share: tuple[int, int] = (0, 1),
    wait: Wait | None = None,
) -> tuple[TensorStore, list[str]]:
    """Encode the images; return the store of their "moments", float32 (2C, h, w) or (C, h, w), and each image's key.
    Arguments and errors are those of `cache_latents_and_text`."""
    folder = dataset.path / "cache"
    paths = [item.image for item in dataset.items]
    keys = digests(dataset.path, paths, folder / "contents.json")
    where = dict(zip(keys, range(len(keys)), strict=True))

    def encode(todo: list[str]) -> dict[str, Tensor]:
        indices = [where[key] for key in todo]
        images = list(pool.map(read_photograph, [paths[index] for index in indices]))
        for index, image in zip(indices, images, strict=True):
            if (size := (image.shape[2], image.shape[1])) != dataset.sizes[index]:
                raise SceditError(
                    f"{paths[index]} is {size[0]}x{size[1]} pixels, not {'x'.join(map(str, dataset.sizes[index]))} as "
                    "its line in metadata.jsonl says",
                    hint="correct width and height there, or prepare the images again",
                )
        return {"moments": base.encode_images(torch.stack(images).float() / 255)}

    def batches(todo: list[str]) -> list[list[str]]:
        sized = sorted(todo, key=lambda key: dataset.sizes[where[key]])
        parts: list[list[str]] = []
        for (width, height), group in groupby(sized, key=lambda key: dataset.sizes[where[key]]):
            parts += _chunks(list(group), max(1, PIXELS_AT_ONCE // (width * height)))
        return parts

    channels, side = base.moment_channels, 2 ** (len(base.vae.config.block_out_channels) - 1)

    def fits(key: str, layout: Layout) -> bool:
        width, height = dataset.sizes[where[key]] if key in where else (0, 0)
        return layout == {"moments": (torch.float32, (channels, height // side, width // side))}

    with ThreadPoolExecutor(4) as pool:
        settings = [weights_digest(base.vae)]
        return _filled(dataset, "latents", settings, keys, fits, batches, encode, reporter, share, wait), keys


def cache_text(
    dataset: Dataset,
    base: Base,
    reporter: Reporter = SILENT,
    share: tuple[int, int] = (0, 1),
    wait: Wait | None = None,
) -> tuple[TensorStore, list[str]]:
    """Encode the captions and the empty prompt; return the store of their tensors, by the names of
    `Base.encode_prompts`, and the key of each image's caption."""
    texts, expected = {_text_key(text): text for text in _distinct(dataset)}, base.text_layout
    store = _filled(
        dataset,
        "text",
        _text_settings(base),
        list(texts),
        lambda key, layout: layout == expected,
        lambda todo: _chunks(todo, _TEXTS_AT_ONCE),
        lambda todo: base.encode_prompts([texts[key] for key in todo]),
        reporter,
        share,
        wait,
    )
    return store, [_text_key(item.text) for item in dataset.items]


def text_in_other_precision(dataset: Dataset, base: Base) -> torch.dtype | None:
    """Return a precision, other than that of `base`, in which text is cached; None where there is none, or where text
    is cached for `base`."""
    mine, empty = _folder(dataset, "text", _text_settings(base)), _text_key("")
    for folder in sorted(mine.parent.glob("text-*")) if not mine.exists() else ():
        store = TensorStore(folder, lambda key, layout: layout.keys() == base.text_layout.keys())
        dtypes = set() if store.missing([empty]) else {values.dtype for values in store.get([empty]).values()}
        if others := dtypes - {base.dtype}:
            return others.pop()
    return None


def _text_settings(base: Base) -> list[str]:
    parts = base.pipeline().components.items()
    return [weights_digest(part) for name, part in parts if name.startswith("text_encoder") and part]


def _folder(dataset: Dataset, name: str, settings: list[str]) -> Path:
    return dataset.path / "cache" / f"{name}-{_digest(name, *settings)[:16]}"


def _filled(
    dataset: Dataset,
    name: str,
    settings: list[str],
    keys: list[str],
    fits: Callable[[str, Layout], bool],
    batches: Callable[[list[str]], list[list[str]]],
    encode: Callable[[list[str]], dict[str, Tensor]],
    reporter: Reporter,
    share: tuple[int, int],
    wait: Wait | None,
) -> TensorStore:
    """Return the store of these settings with an entry for each key; this process encodes its share of those missing.
    """
    number, processes = share
    folder = _folder(dataset, name, settings)
    store = TensorStore(folder, fits)
    # The keys are shared out before those present are left out, since a later process would see fewer missing.
    mine = store.missing(list(dict.fromkeys(keys))[number::processes])
    done = len(keys) - len(mine)
    with store.writer() as writer:
        for batch in batches(mine):
            what = "latents" if name == "latents" else "captions"
            with memory_told(f"{len(batch)} {what} were encoded together", _STARVED):
                writer.add(batch, encode(batch))
            done += len(batch)
            reporter.progress(done, len(keys))
    if wait:
        wait()
    if processes > 1:
        store = TensorStore(folder, fits)
    if lost := store.missing(keys):
        raise WorkFailed(
            f"{folder} lacks {len(lost)} of {len(keys)} entries", hint="start again: what is there is kept"
        )
    reporter.progress(len(keys), len(keys))
    return store


def _distinct(dataset: Dataset) -> list[str]:
    return sorted({"", *(item.text for item in dataset.items)})


def _text_key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _chunks(keys: list[str], size: int) -> list[list[str]]:
    return [keys[at : at + size] for at in range(0, len(keys), size)]


def weights_digest(module: nn.Module) -> str:
    """Return a digest of the module's weights: names, types, shapes and some values of each."""
    digest = hashlib.sha256()
    for name, weight in own_weights(module):
        flat = weight.detach().flatten()
        some = flat[:: max(1, flat.numel() // 64)].cpu().double()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()


def component_digests(base: Base) -> dict[str, str]:
    """Return `weights_digest` of each of the base's models, by its name in the pipeline."""
    parts = base.pipeline().components
    return {name: weights_digest(part) for name, part in parts.items() if isinstance(part, nn.Module)}


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part.encode()).digest())
    return digest.hexdigest()
