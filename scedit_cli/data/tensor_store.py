"""Tensors by name in safetensors shards. Each shard appears whole, and those of an interrupted run are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from scedit_cli.data.arrays import stacked
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import sweep, whole

_FORMAT = "scedit-cache/2"
_SHARD = 2**25  # bytes of tensors in a shard, the most that is lost when a run is killed
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Layout = Mapping[str, tuple[torch.dtype | None, tuple[int, ...]]]  # type and shape of an entry's tensors by name


class TensorStore:
    """The entries of a folder: tensors by name under each key. Damaged files are ignored.

    Args:
        folder: the folder; it is created at the first write.
        fits: returns whether an entry of this key and layout is valid; others are ignored, since a cache may come with
            a downloaded dataset.
    """

    def __init__(self, folder: Path, fits: Callable[[str, Layout], bool] = lambda key, layout: True) -> None:
        self.folder = folder
        self._fits = fits
        self._files: list[safe_open] = []
        self._place: dict[str, safe_open] = {}
        self._names: set[str] = set()
        sweep(folder)
        for path in sorted(folder.glob("[!.]*.safetensors")):
            self._read(path)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return the distinct `keys` that have no entry, in their order."""
        return [key for key in dict.fromkeys(keys) if key not in self._place]

    def get(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Return the stacked entries of `keys` by name.

        Raises:
            SceditError: they hold NaN or Inf.
        """
        found = {
            name: stacked([self._place[key].get_tensor(f"{key}.{name}") for key in keys]) for name in self._names
        }
        if not all(values.isfinite().all() for values in found.values()):
            raise SceditError(
                f"{self.folder} holds values that are not numbers (NaN or Inf)", hint="remove it: it is made again"
            )
        return found

    def writer(self) -> Writer:
        return Writer(self)

    def _read(self, path: Path) -> None:
        entries: dict[str, dict[str, tuple[torch.dtype | None, tuple[int, ...]]]] = {}
        try:
            file = safe_open(path, "pt")
            if (file.metadata() or {}).get("format") != _FORMAT:
                return
            for tensor in file.keys():  # noqa: SIM118
                key, _, name = tensor.partition(".")
                part = file.get_slice(tensor)
                entries.setdefault(key, {})[name] = _DTYPES.get(part.get_dtype()), tuple(part.get_shape())
        except (OSError, SafetensorError):
            return
        for key, layout in entries.items():
            if self._fits(key, layout):
                self._place[key] = file
                self._names |= layout.keys()


class Writer:
    """A context manager that adds entries to a store; its last shard is written when the block ends, also by an error.
    """

    def __init__(self, store: TensorStore) -> None:
        self._store = store
        self._waiting: dict[str, Tensor] = {}
        self._bytes = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write()

    def add(self, keys: Sequence[str], tensors: dict[str, Tensor]) -> None:
        """Add an entry for each of `keys`: one row of each of the `tensors`, which are given by name."""
        for name, rows in tensors.items():
            for key, row in zip(keys, rows, strict=True):
                self._waiting[f"{key}.{name}"] = row = row.detach().cpu().contiguous().clone()
                self._bytes += row.nbytes
        if self._bytes >= _SHARD:
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        # The name is a digest of the entries, so that processes that write at the same time do not collide.
        name = hashlib.sha256("".join(sorted(self._waiting)).encode()).hexdigest()[:16]
        path = self._store.folder / f"{name}.safetensors"
        with whole(path) as part:
            part.write_bytes(save(self._waiting, metadata={"format": _FORMAT}))  # save_file hides a full disk
        self._store._read(path)
        self._waiting, self._bytes = {}, 0
