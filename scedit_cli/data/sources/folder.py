"""Images in a folder or zip, with captions in files beside them and condition images in folders of their own."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from scedit_cli.data.formats import is_image, is_readable, is_shard, suffix_of
from scedit_cli.data.sources.entry import Blob, Entry, Source
from scedit_cli.data.sources.trees import FolderTree, Tree, ZipTree, blob, stem_of
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import expanded

OVERVIEW = "overview.png"  # the contact sheet of a dataset folder
CAPTIONS = (".txt", ".caption")  # in order of preference
_IMAGES, _CONDITIONS = "images/", "conditions/"
_LABELS = {"mask": "-masklabel", "condlabel": "-condlabel"}  # kind -> ending of OneTrainer's files beside an image


def open_folder(tree: Tree, conditions: Mapping[str, str | Path]) -> Source:
    """Open a tree as a source: its images, the captions beside them and their condition images.

    Args:
        conditions: kind -> folder of condition images, inside the tree or elsewhere; those at `conditions/<kind>/` of a
            tree with `images/` are read by default.

    Raises:
        SceditError: there are no images, or no condition images of a kind.
    """
    inside = {kind: found for kind, place in conditions.items() if (found := inside_of(tree, place))}
    elsewhere = {kind: _tree(kind, Path(place)) for kind, place in conditions.items() if kind not in inside}
    root = ""
    if any(file.startswith(_IMAGES) for file in tree.files):
        root = _IMAGES
        kinds = {file.split("/")[1] for file in tree.files if file.startswith(_CONDITIONS) and file.count("/") > 1}
        inside = {kind: f"{_CONDITIONS}{kind}/" for kind in sorted(kinds)} | inside
    apart = tuple(inside.values())
    names = [file for file in tree.files if file.startswith(root) and not file.startswith(apart)]
    labels = _labels([file for file in names if is_image(file)])
    images = [file for file in names if is_image(file) and file not in labels]
    if not images:
        raise _no_images(tree)

    stems = {stem_of(file) for file in images}
    captions = _captions(names, images)
    taken = {name for found in captions.values() for name in found.values()}
    orphans = [file for file in names if suffix_of(file) in CAPTIONS and file not in taken]
    read = (root, _CONDITIONS, *apart)
    orphans += [file for file in tree.images if not file.startswith(read) and file != OVERVIEW]
    others = tuple(folder.removeprefix(root) for folder in tree.others)
    paired: dict[str, _Pairs] = {}
    for kind, end in _LABELS.items():
        files = [file for file, each in labels.items() if each == kind]
        if kind in inside or kind in elsewhere:
            orphans += files
        elif files:
            paired[kind] = _Pairs(tree, files, stems, root, root, end)
    for kind, prefix in inside.items():
        paired[kind] = _Pairs(tree, _below(tree, prefix, others), stems, root, prefix)
    for kind, other in elsewhere.items():
        paired[kind] = _Pairs(other, _below(other, "", others), stems, root)
    for kind, pairs in paired.items():
        if not pairs.files:
            place = conditions.get(kind, inside.get(kind))
            raise SceditError(f"no {kind} images in {place}", hint="name the folder that holds them")
        orphans += [f"{kind}: {file}" for file in pairs.without()]

    twins = _twins(captions)

    def entries() -> Iterator[Entry]:
        for file in images:
            yield Entry(
                name=file,
                image=blob(tree, file),
                captions={suffix: blob(tree, name) for suffix, name in captions[file].items()},
                conditions={kind: pairs.find(stem_of(file)) for kind, pairs in paired.items()},
                fault=twins.get(file),
            )

    return Source(len(images), entries(), orphans, tree.hidden)


def _no_images(tree: Tree) -> SceditError:
    if shards := list(filter(is_shard, tree.files)):
        folder = shards[0].rpartition("/")[0]
        return SceditError(
            f"{tree.name} holds other files beside the shards, as {shards[0]}",
            hint=f"name the shards alone, as {'/'.join(filter(None, (tree.name, folder)))}/{{00000..00009}}.tar",
        )
    return SceditError(
        f"no images in {tree.name}", hint="name a folder with images and a .txt or .caption file beside each"
    )


def _labels(images: list[str]) -> dict[str, str]:
    """Return the images that are labels of others by OneTrainer's names, with their kinds."""
    stems = {stem_of(file) for file in images}
    return {
        file: kind
        for file in images
        for kind, end in _LABELS.items()
        if stem_of(file).endswith(end) and stem_of(file).removesuffix(end) in stems
    }


def _captions(names: list[str], images: list[str]) -> dict[str, dict[str, str]]:
    """Return for each image the caption files among `names` by suffix: for a.png this is a.txt, else a.png.txt."""
    beside = {file: (stem_of(file), suffix_of(file)) for file in names if suffix_of(file) in CAPTIONS}
    held = {key: file for file, key in sorted(beside.items())}  # a.txt, sorted after a.TXT, replaces it
    return {
        file: {end: name for end in CAPTIONS if (name := held.get((stem_of(file), end)) or held.get((file, end)))}
        for file in images
    }


def _twins(captions: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the fault of each readable image whose name differs from another's only in the suffix. There is no fault
    where each of them has a caption by its whole name, as a.jpg.txt and a.png.txt."""
    own = {file for file, each in captions.items() if any(name.startswith(file) for name in each.values())}
    called: dict[str, list[str]] = {}
    for file in filter(is_readable, captions):
        called.setdefault(stem_of(file), []).append(file)
    return {
        file: f"{next(other for other in alike if other != file)} has the same name: remove one of two copies; "
        "condition images belong in a folder of their own, which `conditions=KIND=FOLDER` names"
        for alike in called.values()
        if len(alike) > 1 and not own.issuperset(alike)
        for file in alike
    }


def _below(tree: Tree, prefix: str, others: tuple[str, ...]) -> list[str]:
    """Return the images below `prefix` of a tree, without those of splits left out, in its folders `others`."""
    inside = (file for file in tree.images if file.startswith(prefix))
    return [file for file in inside if not file[len(prefix) :].startswith(others)]


class _Pairs:
    """The condition images of one kind, paired with images: `deep/a` belongs to the image `deep/a`, and so does `a`
    where no other image is called `a`.

    Args:
        files: the condition images by their names in `tree`; the part between `prefix` and `end` pairs them.
        stems: the images' stems, which begin with the folder `root`.
    """

    def __init__(
        self, tree: Tree, files: list[str], stems: set[str], root: str, prefix: str = "", end: str = ""
    ) -> None:
        self.tree, self.stems, self.root = tree, stems, root
        self._every = files
        # Of files with one stem, the first of a supported format is taken.
        ordered = sorted(self._every, key=lambda file: not is_readable(file))
        self.files: dict[str, str] = {}
        for file in ordered:
            self.files.setdefault(stem_of(file)[len(prefix) :].removesuffix(end), file)
        self._namesakes = Counter(_last(stem) for stem in stems)

    def find(self, stem: str) -> Blob | None:
        file = self._file(stem)
        return blob(self.tree, file) if file else None

    def without(self) -> list[str]:
        """Return the condition images that belong to no image."""
        taken = {self._file(stem) for stem in self.stems}
        return [file for file in self._every if file not in taken]

    def _file(self, stem: str) -> str | None:
        last = _last(stem)
        alone = self.files.get(last) if self._namesakes[last] == 1 else None
        return self.files.get(stem[len(self.root) :]) or alone


def _last(stem: str) -> str:
    return stem.rpartition("/")[2]


def _tree(kind: str, path: Path) -> Tree:
    path = expanded(path)
    if not path.exists():
        message = f"`conditions={kind}={path}`: it does not exist"
        raise SceditError(message, "name a folder, or one inside SRC", "src.conditions")
    return ZipTree(path) if path.is_file() else FolderTree(path)


def inside_of(tree: Tree, place: str | Path) -> str:
    """Return the folder `place`, given by its name in a tree or by its path, as a name in the tree with its slash; ""
    where it is not inside."""
    names = [f"{str(place).strip('/')}/"]
    if isinstance(tree, FolderTree):
        for real in (os.path.abspath, os.path.realpath):  # either path may contain links
            path, root = Path(real(expanded(place))), Path(real(tree.path))
            names += [f"{path.relative_to(root).as_posix()}/"] if path.is_relative_to(root) and path != root else []
    names = [unicodedata.normalize("NFC", name) for name in names]  # the form of a tree's names
    return next((name for name in names if any(file.startswith(name) for file in tree.files)), "")
