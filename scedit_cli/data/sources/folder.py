"""Pictures in a folder or zip: captions in files beside them, condition pictures in folders of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from scedit_cli.data.formats import is_picture, is_readable, suffix_of
from scedit_cli.data.sources.entry import Blob, Entry, Source
from scedit_cli.data.sources.trees import FolderTree, Tree, ZipTree, blob, stem_of
from scedit_cli.errors import SceditError
from scedit_cli.files import expanded

OVERVIEW = "overview.png"  # the contact sheet of a dataset folder
CAPTIONS = (".txt", ".caption")  # where a picture has both, the first is taken
_IMAGES, _CONDITIONS = "images/", "conditions/"


def open_folder(tree: Tree, conditions: Mapping[str, str | Path]) -> Source:
    """`conditions` names the folders of condition pictures, inside the tree or elsewhere. A tree with `images/` and
    `conditions/<kind>/` needs none named.

    Raises:
        SceditError: no pictures, or no condition pictures where they should be.
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
    pictures = [file for file in names if is_picture(file)]
    if not pictures:
        raise _no_pictures(tree)

    stems = {stem_of(file) for file in pictures}
    beside = {file: (stem_of(file), suffix_of(file)) for file in names if suffix_of(file) in CAPTIONS}
    captions = {key: file for file, key in sorted(beside.items())}  # of a.TXT and a.txt, the last
    orphans = [file for file, key in beside.items() if key[0] not in stems or captions[key] != file]
    read = (root, _CONDITIONS, *apart)
    orphans += [file for file in tree.pictures if not file.startswith(read) and file != OVERVIEW]
    others = tuple(folder.removeprefix(root) for folder in tree.others)
    paired = {kind: _Pairs(tree, stems, root, others, prefix) for kind, prefix in inside.items()}
    paired |= {kind: _Pairs(other, stems, root, others) for kind, other in elsewhere.items()}
    for kind, pairs in paired.items():
        if not pairs.files:
            place = conditions.get(kind, inside.get(kind))
            raise SceditError(f"no {kind} pictures in {place}", hint="name the folder that holds them")
        orphans += [f"{kind}: {file}" for file in pairs.without()]

    def texts_of(file: str) -> dict[str, Blob]:
        found = {suffix: captions.get((stem_of(file), suffix)) for suffix in CAPTIONS}
        return {suffix: blob(tree, name) for suffix, name in found.items() if name}

    def entries() -> Iterator[Entry]:
        for file in pictures:
            yield Entry(
                name=file,
                image=blob(tree, file),
                captions=texts_of(file),
                conditions={kind: pairs.find(stem_of(file)) for kind, pairs in paired.items()},
            )

    first: dict[str, str] = {}
    shared = [(file, first.setdefault(stem_of(file), file)) for file in pictures if is_readable(file)]
    namesakes = [(file, other) for file, other in shared if file != other and (paired or texts_of(file))]
    return Source(len(pictures), entries(), orphans, tree.hidden, namesakes=namesakes)


def _no_pictures(tree: Tree) -> SceditError:
    if shards := [file for file in tree.files if suffix_of(file) == ".tar"]:
        folder = shards[0].rpartition("/")[0]
        return SceditError(
            f"{tree.name} holds other files beside the shards, as {shards[0]}",
            hint=f"name the shards alone, as {'/'.join(filter(None, (tree.name, folder)))}/{{00000..00009}}.tar",
        )
    return SceditError(
        f"no pictures in {tree.name}", hint="name a folder with pictures and a .txt or .caption file beside each"
    )


class _Pairs:
    """The condition pictures below `prefix` of a tree, for pictures of these `stems`, which begin with `root`: that of
    `deep/a` is `deep/a`, else `a`, where no other picture is called so. `others` are folders of splits not taken."""

    def __init__(self, tree: Tree, stems: set[str], root: str, others: tuple[str, ...], prefix: str = "") -> None:
        self.tree, self.stems, self.root = tree, stems, root
        inside = (file for file in tree.pictures if file.startswith(prefix))
        self._every = [file for file in inside if not file[len(prefix) :].startswith(others or ("/",))]
        # Of two of one stem, the first of a format that is read.
        ordered = sorted(self._every, key=lambda file: not is_readable(file))
        self.files: dict[str, str] = {}
        for file in ordered:
            self.files.setdefault(stem_of(file)[len(prefix) :], file)
        self._namesakes = Counter(_last(stem) for stem in stems)

    def find(self, stem: str) -> Blob | None:
        file = self._file(stem)
        return blob(self.tree, file) if file else None

    def without(self) -> list[str]:
        """Those that are no picture's."""
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
        raise SceditError(f"--cond {kind}={path}: it does not exist", hint="name a folder, or one inside SRC")
    return ZipTree(path) if path.is_file() else FolderTree(path)


def inside_of(tree: Tree, place: str | Path) -> str:
    """Where the folder `place` lies inside a tree, with its slash, named from there or by its path; empty where it does
    not."""
    names = [f"{str(place).strip('/')}/"]
    if isinstance(tree, FolderTree):
        path, root = expanded(place).resolve(), tree.path.resolve()
        names += [f"{path.relative_to(root).as_posix()}/"] if path.is_relative_to(root) and path != root else []
    return next((name for name in names if any(file.startswith(name) for file in tree.files)), "")
