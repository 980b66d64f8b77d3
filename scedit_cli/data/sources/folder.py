"""Pictures in a folder or zip: captions in files beside them, condition pictures in folders of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from scedit_cli.data.sources.entry import Blob, Entry, Source
from scedit_cli.data.sources.trees import FolderTree, Tree, ZipTree, blob, is_picture, stem_of
from scedit_cli.errors import SceditError
from scedit_cli.files import expanded

CAPTIONS = (".txt", ".caption")  # where a picture has both, the first is taken
_IMAGES, _CONDITIONS = "images/", "conditions/"
_LABELS = {"mask": "-masklabel", "condlabel": "-condlabel"}  # beside a picture, as OneTrainer has them: kind -> ending


def open_folder(tree: Tree, conditions: Mapping[str, str | Path]) -> Source:
    """`conditions` names the folders of condition pictures, inside the tree or elsewhere. A tree with `images/` and
    `conditions/<kind>/` needs none named.

    Raises:
        SceditError: no pictures, or no condition pictures where they should be.
    """
    inside = {kind: f"{str(place).strip('/')}/" for kind, place in conditions.items()}
    inside = {kind: prefix for kind, prefix in inside.items() if any(f.startswith(prefix) for f in tree.files)}
    elsewhere = {kind: _tree(kind, Path(place)) for kind, place in conditions.items() if kind not in inside}
    root = ""
    if any(file.startswith(_IMAGES) for file in tree.files):
        root = _IMAGES
        kinds = {file.split("/")[1] for file in tree.files if file.startswith(_CONDITIONS) and file.count("/") > 1}
        inside = {kind: f"{_CONDITIONS}{kind}/" for kind in sorted(kinds)} | inside
    apart = tuple(_within(tree, other) for other in elsewhere.values()) + tuple(inside.values())
    apart = tuple(filter(None, apart))
    names = [file for file in tree.files if file.startswith(root) and not file.startswith(apart)]
    pictures = [file for file in names if is_picture(file)]
    labels = _labels(pictures)
    pictures = [file for file in pictures if file not in labels]
    if not pictures:
        raise SceditError(
            f"no pictures in {tree.name}", hint="name a folder with pictures and a .txt or .caption file beside each"
        )

    every, twins = set(names), _twins(pictures)
    stems = {stem_of(file) for file in pictures}
    owners = stems.union(pictures)  # the caption of a.png is in a.txt, or in a.png.txt
    orphans = [file for file in names if file.endswith(CAPTIONS) and stem_of(file) not in owners]
    orphans += [file for file in tree.files if is_picture(file) and not file.startswith((root, _CONDITIONS, *apart))]
    paired = {kind: _Pairs(tree, stems, root, root, _LABELS[kind]) for kind in dict.fromkeys(labels.values())}
    paired |= {kind: _Pairs(tree, stems, root, prefix) for kind, prefix in inside.items()}
    paired |= {kind: _Pairs(other, stems, root) for kind, other in elsewhere.items()}
    for kind, pairs in paired.items():
        if not pairs.files:
            place = conditions.get(kind, inside.get(kind))
            raise SceditError(f"no {kind} pictures in {place}", hint="name the folder that holds them")
        orphans += [f"{kind}: {file}" for file in pairs.without()]

    def entries() -> Iterator[Entry]:
        for file in pictures:
            stem = stem_of(file)
            beside = {end: next((n for n in (stem + end, file + end) if n in every), None) for end in CAPTIONS}
            yield Entry(
                name=file,
                image=blob(tree, file),
                captions={suffix: blob(tree, name) for suffix, name in beside.items() if name},
                conditions={kind: pairs.find(stem) for kind, pairs in paired.items()},
                fault=twins.get(file),
            )

    return Source(len(pictures), entries(), orphans, tree.hidden)


def _labels(pictures: list[str]) -> dict[str, str]:
    """Those of the pictures that are labels of others, and their kind."""
    stems = {stem_of(file) for file in pictures}
    return {
        file: kind
        for file in pictures
        for kind, end in _LABELS.items()
        if stem_of(file).endswith(end) and stem_of(file).removesuffix(end) in stems
    }


def _twins(pictures: list[str]) -> dict[str, str]:
    """What is wrong with each of the pictures that are called alike but for their suffix."""
    called: dict[str, list[str]] = {}
    for file in pictures:
        called.setdefault(stem_of(file), []).append(file)
    return {
        file: f"{next(other for other in alike if other != file)} has the same name: remove one of two copies; "
        "condition pictures belong in a folder of their own, which --cond KIND=FOLDER names"
        for alike in called.values()
        if len(alike) > 1
        for file in alike
    }


class _Pairs:
    """The condition pictures below `prefix` of a tree, for pictures of these `stems`, which begin with `root`: that of
    `deep/a` is `deep/a`, else `a`, where no other picture is called so; with an `end` behind its name."""

    def __init__(self, tree: Tree, stems: set[str], root: str, prefix: str = "", end: str = "") -> None:
        self.tree, self.stems, self.root = tree, stems, root
        named = {stem_of(file): file for file in tree.files if file.startswith(prefix) and is_picture(file)}
        self.files = {stem[len(prefix) :].removesuffix(end): file for stem, file in named.items() if stem.endswith(end)}
        self._namesakes = Counter(_last(stem) for stem in stems)

    def find(self, stem: str) -> Blob | None:
        file = self._file(stem)
        return blob(self.tree, file) if file else None

    def without(self) -> list[str]:
        """Those that are no picture's."""
        taken = {self._file(stem) for stem in self.stems}
        return [file for file in self.files.values() if file not in taken]

    def _file(self, stem: str) -> str | None:
        last = _last(stem)
        alone = self.files.get(last) if self._namesakes[last] == 1 else None
        return self.files.get(stem[len(self.root) :]) or alone


def _last(stem: str) -> str:
    return stem.rpartition("/")[2]


def _tree(kind: str, path: Path) -> Tree:
    path = expanded(path)
    if not path.exists():
        raise SceditError(f"--cond {kind}={path}: it does not exist", hint="name a folder, or one inside SRC")
    return ZipTree(path) if path.is_file() else FolderTree(path)


def _within(tree: Tree, other: Tree) -> str:
    """Where the folder `other` lies inside the folder `tree`; empty where it does not."""
    if isinstance(tree, FolderTree) and isinstance(other, FolderTree):
        place, root = other.path.resolve(), tree.path.resolve()
        if place.is_relative_to(root) and place != root:
            return f"{place.relative_to(root).as_posix()}/"
    return ""
