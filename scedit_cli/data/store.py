"""Tensors by name in safetensors shards: each appears whole, and what a stopped run has written stays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from scedit_cli.data.arrays import stacked
from scedit_cli.files import sweep, whole

_FORMAT = "scedit-cache/2"
_SHARD = 2**25  # bytes of tensors in a shard: what is lost at most when a run is killed


class Store:
    """The entries of a folder: under each key, tensors by name. Files that are torn count as not there.

    Args:
        folder: made when there is something to write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: list[safe_open] = []
        self._place: dict[str, safe_open] = {}
        self._names: set[str] = set()
        sweep(folder)
        for path in sorted(folder.glob("[!.]*.safetensors")):
            self._read(path)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that are not there, each once, in their order."""
        return [key for key in dict.fromkeys(keys) if key not in self._place]

    def get(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """The entries of `keys`, stacked, by name."""
        return {
            name: stacked([self._place[key].get_tensor(f"{key}.{name}") for key in keys]) for name in self._names
        }

    def shape(self, key: str, name: str) -> tuple[int, ...]:
        return tuple(self._place[key].get_slice(f"{key}.{name}").get_shape())

    def writer(self) -> Writer:
        return Writer(self)

    def _read(self, path: Path) -> None:
        try:
            file = safe_open(path, "pt")
            if (file.metadata() or {}).get("format") != _FORMAT:
                return
        except (OSError, SafetensorError):
            return
        for tensor in file.keys():  # noqa: SIM118
            key, _, name = tensor.partition(".")
            self._place[key] = file
            self._names.add(name)


class Writer:
    """Adds entries to a store; the last shard is written when the `with` block ends, by an exception too."""

    def __init__(self, store: Store) -> None:
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
        """`tensors` by name hold a row for each of `keys`."""
        for name, rows in tensors.items():
            for key, row in zip(keys, rows, strict=True):
                self._waiting[f"{key}.{name}"] = row = row.detach().cpu().contiguous().clone()
                self._bytes += row.nbytes
        if self._bytes >= _SHARD:
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        # Named by what it holds, so that processes that write at the same time do not meet.
        name = hashlib.sha256("".join(sorted(self._waiting)).encode()).hexdigest()[:16]
        path = self._store.folder / f"{name}.safetensors"
        with whole(path) as part:
            part.write_bytes(save(self._waiting, metadata={"format": _FORMAT}))  # save_file hides a full disk
        self._store._read(path)
        self._waiting, self._bytes = {}, 0
