"""What training needs of a dataset, encoded once: latents and text in `cache/`, keyed by content and settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from scedit_cli.base import Base
from scedit_cli.conditions import channels_of
from scedit_cli.conditions.orders import Order
from scedit_cli.data.dataset import Dataset
from scedit_cli.data.hints import Hints, MadeHints, read_uint8
from scedit_cli.files import whole

_FORMAT = "scedit-cache/1"
_PIXELS_AT_ONCE = 2**19  # encoded together: 32 pictures of 128², 2 of 512²
_TEXTS_AT_ONCE = 64

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Cache:
    """A dataset as training sees it, on the CPU, N pictures long.

    Attributes:
        moments: (N, 2C, h, w) float32, of the latents' distributions, unscaled, so that their noise can be drawn anew.
        text: the base's encoding of each distinct caption and of the empty prompt by name, each (captions, ...).
        captions: (N,) which of them is whose; `empty` is the empty prompt's.
        hints: by kind.
    """

    moments: Tensor
    text: dict[str, Tensor]
    captions: Tensor
    empty: int
    hints: dict[str, Hints | MadeHints]

    def __len__(self) -> int:
        return len(self.moments)

    def text_of(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The encoded captions of these pictures by name, each (B, ...)."""
        return {name: values[self.captions[torch.tensor(indices)]] for name, values in self.text.items()}

    @property
    def empty_text(self) -> dict[str, Tensor]:
        """The encoded empty prompt by name, each (1, ...)."""
        return {name: values[self.empty : self.empty + 1] for name, values in self.text.items()}


def cache_latents_and_text(
    dataset: Dataset,
    base: Base,
    kinds: Sequence[str] = (),
    on_step: OnStep | None = None,
    orders: Sequence[Order] = (),
) -> Cache:
    """Everything that training needs of `dataset`; what `cache/` beside it already holds is not encoded again.

    Args:
        kinds: of the hints to read.
        on_step: called with (pictures and captions encoded, of how many).
        orders: for the hints that are made of the pictures when they are needed.

    Raises:
        SceditError: a picture that cannot be read, pictures of several sizes, a kind that is missing or of other sizes.
        WorkFailed: the latents are not numbers.
    """
    hints: dict[str, Hints | MadeHints]
    hints = {kind: Hints(dataset.condition_paths(kind), dataset.size, channels=channels_of(kind)) for kind in kinds}
    hints |= {order.kind: MadeHints([i.image for i in dataset.items], dataset.size, order) for order in orders}
    pictures, texts = len(dataset), len(_distinct(dataset))

    def tell(done: int, _: int) -> None:
        if on_step:
            on_step(done, pictures + texts)

    moments = cache_latents(dataset, base, tell)
    text, captions = cache_text(dataset, base, lambda done, total: tell(pictures + done, total))
    return Cache(moments, text, captions, _distinct(dataset).index(""), hints)


def cache_latents(dataset: Dataset, base: Base, on_step: OnStep | None = None) -> Tensor:
    """Moments (N, 2C, h, w) of the pictures, float32. Raises as `cache_latents_and_text`."""
    width, height = dataset.size
    at_once = max(1, _PIXELS_AT_ONCE // (width * height))
    paths = [item.image for item in dataset.items]
    with ThreadPoolExecutor(4) as pool:
        key = _key("latents", [_weights(base.vae), *pool.map(_content, paths)])

        def encode() -> dict[str, Tensor]:
            parts = []
            for at in range(0, len(paths), at_once):
                pictures = torch.stack(list(pool.map(read_uint8, paths[at : at + at_once])))
                parts.append(base.encode_images(pictures.float() / 255).cpu())
                _tell(on_step, at + len(pictures), len(paths))
            return {"moments": torch.cat(parts)}

        moments = _kept(dataset, "latents", key, encode)["moments"]
    _tell(on_step, len(paths), len(paths))
    return moments


def cache_text(dataset: Dataset, base: Base, on_step: OnStep | None = None) -> tuple[dict[str, Tensor], Tensor]:
    """The encoded distinct captions with the empty prompt, by name, and which of them is each picture's (N,)."""
    texts = _distinct(dataset)
    encoders = [part for name, part in base.pipeline().components.items() if name.startswith("text_encoder") and part]

    def encode() -> dict[str, Tensor]:
        parts = []
        for at in range(0, len(texts), _TEXTS_AT_ONCE):
            batch = texts[at : at + _TEXTS_AT_ONCE]
            parts.append({name: value.cpu() for name, value in base.encode_prompts(batch).items()})
            _tell(on_step, at + len(batch), len(texts))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    text = _kept(dataset, "text", _key("text", [*map(_weights, encoders), *texts]), encode)
    _tell(on_step, len(texts), len(texts))
    place = {text: index for index, text in enumerate(texts)}
    return text, torch.tensor([place[item.text] for item in dataset.items])


def _kept(dataset: Dataset, name: str, key: str, encode: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of the cache file of this key, encoded and written first where it is not there or not whole."""
    path = dataset.path / "cache" / f"{name}-{key[:16]}.safetensors"
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") == key:
                return load_file(path)
    except (FileNotFoundError, SafetensorError):
        pass
    tensors = {part: values.contiguous() for part, values in encode().items()}
    with whole(path) as part:
        part.write_bytes(save(tensors, metadata={"format": _FORMAT, "key": key}))  # save_file hides a full disk
    return tensors


def _distinct(dataset: Dataset) -> list[str]:
    return sorted({"", *(item.text for item in dataset.items)})


def _key(name: str, parts: Sequence[str]) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {name} {len(parts)}".encode())
    for part in parts:
        digest.update(hashlib.sha256(part.encode()).digest())
    return digest.hexdigest()


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _weights(module: nn.Module) -> str:
    """A digest of the module's weights: names, types, shapes and some values of each."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        flat = weight.detach().flatten()
        some = flat[:: max(1, flat.numel() // 64)].double().cpu()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()


def _tell(on_step: OnStep | None, done: int, total: int) -> None:
    if on_step:
        on_step(done, total)
