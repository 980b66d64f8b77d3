"""What the project takes from others: declared, within bounds, under licences that allow it, and without a network.

The lower bounds themselves are tried by hand, in an environment of its own, for they take gigabytes:

    uv venv lowest && source lowest/bin/activate
    uv pip install --resolution lowest-direct -e '.[test]' && python -m pytest -n 2

and what is known of the newest ones' holes by `python -m pip install pip-audit && python -m pip_audit`.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scedit_cli import conditions
from scedit_cli.conditions.listing import listing

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NEEDED = {_.name.lower(): _ for _ in map(Requirement, PROJECT["dependencies"])}
EXTRAS = {
    extra: [each for each in map(Requirement, requirements) if each.name != "scedit-cli"]
    for extra, requirements in PROJECT["optional-dependencies"].items()
}
# How a library is imported, where that is not its distribution's name.
CALLED = {
    "PIL": "pillow", "cv2": "opencv-python-headless", "imagehash": "imagehash", "skimage": "scikit-image",
    "pyarrow": "datasets",
}  # fmt: skip
# Came with a library that is declared and cannot be without it.
WITH_OTHERS = {"tokenizers": "transformers", "packaging": "transformers", "fsspec": "huggingface_hub",
               "pydantic_core": "pydantic", "click": "typer", "yaml": "huggingface_hub"}  # fmt: skip
ALLOWED = re.compile(
    r"MIT|BSD|Apache|ISC|Zlib|PSF|Python Software Foundation|HPND|MPL-2\.0|Mozilla Public License 2\.0|CC0|BSL-1\.0"
)
# Of a library that an extra brings and that is used as it is, through its own interface.
WEAK_COPYLEFT = {"pi-heif": "LGPL"}
REFUSED = re.compile(r"\bA?GPL|Affero|NonCommercial|Non-Commercial|Proprietary|SSPL|Commons Clause", re.IGNORECASE)


_HOSTS = ("folder_paths",)  # modules of ComfyUI, which loads the nodes that a merge writes


def imports() -> Iterator[tuple[Path, str, bool]]:
    """(file, library, whether it is imported with the module) of every import in the package."""
    for file in sorted((ROOT / "scedit_cli").rglob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        at_once = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                library = name.split(".")[0]
                if library not in sys.stdlib_module_names and library not in ("scedit_cli", *_HOSTS):
                    yield file, library, id(node) in at_once


def test_every_library_that_is_imported_is_declared() -> None:
    extras = {each.name.lower() for requirements in EXTRAS.values() for each in requirements}
    found = list(imports())
    assert len(found) > 200
    for file, library, at_once in found:
        name = CALLED.get(library, WITH_OTHERS.get(library, library)).lower().replace("_", "-")
        needed = {each.replace("_", "-") for each in NEEDED}
        assert name in needed or (name in {each.replace("_", "-") for each in extras} and not at_once), (
            f"{file.relative_to(ROOT)} imports {library}, which pyproject.toml does not declare"
            + (" for everybody" if at_once else "")
        )


@pytest.mark.parametrize("requirement", [*NEEDED.values(), *(r for each in EXTRAS.values() for r in each)], ids=str)
def test_what_is_installed_is_within_the_bounds(requirement: Requirement) -> None:
    assert any(each.operator in (">=", "==", "~=") for each in requirement.specifier), "it has no lower bound"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        assert requirement.name.lower() not in NEEDED
        pytest.skip(f"{requirement.name} is of an extra that is not installed")
    assert requirement.specifier.contains(version, prereleases=True)


_TEXTS = {"Redistribution and use in source and binary forms": "BSD", "Apache License": "Apache"}
# What a distribution may say for a licence, where that is not the beginning of its SPDX name.
_SAYS = {"PSF": "PSF|Python Software Foundation", "MPL": "MPL|Mozilla"}


def licence_of(name: str) -> str:
    """What a distribution says of its licence: the expression, else its classifiers, else its text's beginning, else
    the licence file that comes with it."""
    about = importlib.metadata.metadata(name)
    classes = [each for each in about.get_all("Classifier") or [] if each.startswith("License")]
    told = [each.rpartition("::")[2].strip() for each in classes]
    said = about.get("License-Expression") or "; ".join(told) or (about.get("License") or "").strip()[:200]
    texts = [file for file in importlib.metadata.files(name) or [] if file.name.startswith("LICENSE")]
    return said or next((_TEXTS[start] for file in texts for start in _TEXTS if start in file.read_text()), "")


def closure() -> set[str]:
    """All distributions that an installation with every extra but those for tests brings, as far as they are here."""
    waiting = [*NEEDED.values(), *(each for extra, few in EXTRAS.items() if extra != "test" for each in few)]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop().name.lower().replace("_", "-")
        if name in seen:
            continue
        try:
            more = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        seen.add(name)
        further = map(Requirement, more)
        waiting += [each for each in further if each.marker is None or each.marker.evaluate({"extra": ""})]
    return seen


def test_one_opencv() -> None:
    """Its four distributions write the same files, so of several in one environment none is whole."""
    assert [name for name in sorted(closure()) if name.startswith("opencv")] == ["opencv-python-headless"]


def test_licences_of_dependencies_are_on_the_list() -> None:
    found = {name: licence_of(name) for name in sorted(closure())}
    assert len(found) > 50
    ours = {name: licence for name, licence in found.items() if not name.startswith(("nvidia-", "cuda-"))}
    assert not {name: licence for name, licence in ours.items() if REFUSED.search(licence)}
    others = {name: licence for name, licence in ours.items() if not ALLOWED.search(licence)}
    assert not {name: licence for name, licence in others.items() if WEAK_COPYLEFT.get(name, "?") not in licence}
    assert not WEAK_COPYLEFT.keys() & NEEDED.keys()


def test_the_list_of_licences() -> None:
    """It names every library that is asked for and the extra that asks, and says what the library says."""
    table = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \|$", (ROOT / "LICENSES.md").read_text("utf-8"), re.MULTILINE)
    asked = [(each.name, "everybody") for each in map(Requirement, PROJECT["dependencies"])]
    asked += [(each.name, f"`{extra}`") for extra, requirements in EXTRAS.items() for each in requirements]
    assert [(name, whose) for name, _, whose in table[1:]] == asked
    for name, licence, _ in table[1:]:
        assert ALLOWED.search(licence) or WEAK_COPYLEFT.get(name, "?") in licence, name
        family = licence.partition("-")[0]
        try:
            assert re.search(_SAYS.get(family, family), licence_of(name)), (name, licence_of(name))
        except importlib.metadata.PackageNotFoundError:
            assert name.lower() not in NEEDED


def test_licences_of_annotators_are_told() -> None:
    rows = listing().document()["annotators"]
    assert {row["kind"] for row in rows} == set(conditions.KINDS)
    for row in rows:
        assert row["licence"], row
        forbids = re.search(r"non-?commercial|no commercial|\bNC\b|research|academic", row["licence"], re.IGNORECASE)
        assert row["commercial"] == (not forbids), row


def test_no_test_reaches_the_network() -> None:
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    for attempt in (
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
        lambda: socket.create_connection(("huggingface.co", 443), timeout=1),
        lambda: socket.socket().connect(("192.0.2.1", 80)),
        lambda: datagrams.sendto(b"a", ("192.0.2.1", 53)),
        lambda: datagrams.sendto(b"a", 0, ("192.0.2.1", 53)),
        lambda: datagrams.sendmsg([b"a"], (), 0, ("192.0.2.1", 53)),
        lambda: socket.gethostbyname("huggingface.co"),
        lambda: socket.gethostbyname_ex("huggingface.co"),
        lambda: socket.gethostbyaddr("192.0.2.1"),
    ):
        with pytest.raises(OSError, match="tests reach no network"):
            attempt()
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "tests reach no network" in answer.stderr
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    with socket.socket(type=socket.SOCK_DGRAM) as here:
        here.bind(("127.0.0.1", 0))
        assert datagrams.sendto(b"a", here.getsockname()) == 1 and here.recv(1) == b"a"
    datagrams.close()
    assert socket.gethostbyname("localhost") == "127.0.0.1"


def test_importing_everything_opens_no_connection() -> None:
    code = """
import importlib, pkgutil, socket, sys
attempts = []
socket.socket.connect = lambda self, address: attempts.append(address)
socket.getaddrinfo = lambda *arguments, **options: attempts.append(arguments)
import scedit_cli
for module in pkgutil.walk_packages(scedit_cli.__path__, 'scedit_cli.'):
    if not module.name.endswith('__main__'):
        importlib.import_module(module.name)
print(attempts)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip().splitlines()[-1:] == ["[]"], answer.stdout + answer.stderr
