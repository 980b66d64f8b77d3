"""Dataset folders: `images/`, `conditions/<kind>/` and `metadata.jsonl`, which Hugging Face `datasets` loads as an
imagefolder."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scedit_cli.data.images import image_size
from scedit_cli.data.text_tables import json_objects
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import write_whole

METADATA = "metadata.jsonl"
_COLUMN = "_file_name"
ORIGIN = ("original_width", "original_height", "crop_top", "crop_left")  # of a line, and of a sample's .json in shards
_NUMBERS = ("width", "height", *ORIGIN)

Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True)
class Item:
    """One line of the metadata: an image, its caption, and its condition images by kind.

    Attributes:
        size: the image's size, or None where the line does not give it.
        original: the size of the source image; SDXL's U-Net is conditioned on it and on `crop`.
        crop: top and left of the part that was cut from the source, in pixels of this image.
        weight: the content of the column `weight`, which `Dataset.weights` checks.
    """

    line: int
    image: Path
    text: str
    conditions: dict[str, Path]
    size: Size | None = None
    original: Size | None = None
    crop: tuple[int, int] = (0, 0)
    weight: Any = None


@dataclass(frozen=True)
class Dataset:
    """An open dataset folder; every image and condition image that it names exists."""

    path: Path
    items: tuple[Item, ...]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of condition that every image has."""
        first, *rest = self.items
        return tuple(kind for kind in first.conditions if all(kind in item.conditions for item in rest))

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """Width and height in pixels of each image, from its line or else from its file."""
        with ThreadPoolExecutor(4) as pool:
            return tuple(pool.map(lambda item: item.size or image_size(item.image), self.items))

    @cached_property
    def buckets(self) -> tuple[Size, ...]:
        """The distinct sizes, the most frequent first. A batch holds images of one of them."""
        return tuple(size for size, _ in sorted(Counter(self.sizes).items(), key=lambda each: (-each[1], each[0])))

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """The factor on each image's loss, from the column `weight`.

        Raises:
            SceditError: a weight that `weight_of` refuses.
        """
        return tuple(weight_of(item.weight, self._at(item)) for item in self.items)

    def condition_paths(self, kind: str) -> list[Path]:
        """Return the condition images of `kind`, in the order of the items.

        Raises:
            SceditError: an image has none, or one of another size than its own.
        """
        for item in self.items:
            if kind not in item.conditions:
                raise SceditError(
                    f"{self._at(item)}: {item.image.name} has no {kind}{_COLUMN}",
                    hint=way_to(kind, self.path),
                )
        paths = [item.conditions[kind] for item in self.items]
        with ThreadPoolExecutor(4) as pool:
            for item, size, other in zip(self.items, self.sizes, pool.map(image_size, paths), strict=True):
                if other != size:
                    raise SceditError(
                        f"{self._at(item)}: {kind}{_COLUMN} {item.conditions[kind].name} is {_by(other)} pixels, "
                        f"its image is {_by(size)}",
                        hint=f"`annotate({self.path}, kinds={kind}, overwrite=True)` makes it again",
                    )
        return paths

    def _at(self, item: Item) -> str:
        return _at(self.path, item.line)


def open_dataset(path: str | Path) -> Dataset:
    """Open the dataset folder at `path`.

    Raises:
        SceditError: the folder or its metadata.jsonl is missing, the metadata is malformed or names no images, or it
            names a file that does not exist.
    """
    path = Path(path)
    items = tuple(item_of(path, line, row) for line, row in read_rows(path))
    for item in items:
        for file in (item.image, *item.conditions.values()):
            if not file.is_file():
                raise SceditError(
                    f"{_at(path, item.line)}: {file.relative_to(path)} does not exist",
                    hint="bring it back, or remove the line",
                )
    return Dataset(path, items)


def read_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return the lines of the folder's metadata, numbered from 1, without empty ones. In every row `file_name`, `text`
    and the condition columns are strings (a condition column may be null); whether the files exist is not checked.

    Raises:
        SceditError: the folder or its metadata.jsonl is missing, malformed, or names no images.
    """
    if not path.is_dir():
        raise SceditError(
            f"{path} is no folder" if path.exists() else f"{path} does not exist", hint="name a dataset folder"
        )
    file = path / METADATA
    if not file.is_file():
        raise SceditError(
            f"{path} is no dataset folder: it has no {METADATA}", hint=f"`prepare({path}, out=DIR)` makes one"
        )
    example = '{"file_name": "images/a.png", "text": "..."}'
    rows = list(json_objects(file.read_bytes().split(b"\n"), str(file), example))
    for line, row in rows:
        _check(row, _at(path, line))
    if not rows:
        raise SceditError(f"{file} names no images", hint="scedit prepare makes a dataset folder")
    return rows


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace the folder's metadata atomically."""
    write_whole(path / METADATA, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def item_of(path: Path, line: int, row: dict[str, Any]) -> Item:
    """Return a metadata row of the folder `path` as an item, its files as paths."""
    conditions = {
        column.removesuffix(_COLUMN): path / name for column, name in row.items() if column.endswith(_COLUMN) and name
    }
    width, height, original_width, original_height, top, left = (row.get(name) for name in _NUMBERS)
    return Item(
        line,
        path / row["file_name"],
        row["text"],
        conditions,
        size=(width, height) if width and height else None,
        original=(original_width, original_height) if original_width and original_height else None,
        crop=(top or 0, left or 0),
        weight=row.get("weight"),
    )


def weight_of(value: Any, at: str) -> float:
    """Return the factor on an image's loss from a table's cell: a number or its text; 1 for None.

    Raises:
        SceditError: it is not a finite number of at least 0. `at` names the cell's place in the message.
    """
    try:
        weight = 1.0 if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        weight = math.nan
    if isinstance(value, bool) or not 0 <= weight < math.inf:
        raise SceditError(f"{at}: weight is {value!r}", hint="it must be a number from 0")
    return weight


def row_of(image: str, text: str, conditions: Sequence[str]) -> dict[str, str]:
    """Return the metadata row of an image (`000017.png`) whose condition images of the kinds `conditions` have their
    standard places."""
    return {"file_name": f"images/{image}", "text": text} | {
        column_of(kind): condition_name(kind, f"images/{image}") for kind in conditions
    }


def column_of(kind: str) -> str:
    """Return the metadata column that names the condition images of `kind`."""
    return f"{kind}{_COLUMN}"


def condition_name(kind: str, file_name: str) -> str:
    """Return where the condition image of the image `file_name` belongs: `conditions/<kind>/<the image's stem>.png`."""
    inside = Path(file_name)
    inside = inside.relative_to("images") if inside.is_relative_to("images") else inside
    return (Path("conditions") / kind / inside.with_suffix(".png")).as_posix()


def _check(row: dict[str, Any], at: str) -> None:
    for column in ("file_name", "text"):
        if column not in row:
            raise SceditError(f"{at}: {column} is missing", hint='each line has a "file_name" and a "text"')
    for column, value in row.items():
        if column in _NUMBERS and value is not None and not (isinstance(value, int) and value >= 0):
            raise SceditError(f"{at}: {column} is {value!r}", hint="it must be a number of pixels")
        named = column == "file_name" or column.endswith(_COLUMN)
        if named and value is None and column != "file_name":  # other tools write null for a missing condition
            continue
        if (named or column == "text") and not isinstance(value, str):
            raise SceditError(f"{at}: {column} is {value!r}", hint="it must be a text")
        if named and (not value or Path(value).is_absolute() or ".." in Path(value).parts):
            raise SceditError(f"{at}: {column} is {value!r}", hint="name a file inside the dataset folder")


def way_to(kind: str, path: Path | str) -> str:
    """Return the advice for an image of the dataset folder `path` that has no condition of `kind`."""
    from scedit_cli import conditions

    if kind not in conditions.KINDS:
        return f"name its {kind} image in the column {kind}{_COLUMN}"
    made = f"`annotate({path}, kinds={kind})` makes it"
    return f'data.make = ["{kind}"] makes all of them while training; {made}' if conditions.is_quick(kind) else made


def _at(path: Path, line: int) -> str:
    return f"{path / METADATA} line {line}"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
