"""Annotators' weights, from local copies or the hub: loaded completely, and without running code from the files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scedit_cli.utils.errors import SceditError, WorkFailed, is_out_of_memory, not_loaded, reason
from scedit_cli.utils.fetched import check_fetched
from scedit_cli.utils.hub import answers, download_file
from scedit_cli.utils.io import sha256

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

_LOADED = {".json", ".safetensors", ".bin"}  # files of a model of transformers


def weights_file(place: str, weights: Path | None, among: Sequence[str] = ()) -> Path:
    """Return the file that `place` ("owner/repository:file") names, in the folder `weights`; without that folder, the
    hub's, downloaded once.

    Args:
        among: places in the same repository that are needed together; the error for a missing one names all.

    Raises:
        SceditError: `weights` has no such file.
        WorkFailed: the hub cannot be reached, or has no such file.
    """
    repository, name = place.split(":")
    needed = [each.split(":")[1] for each in among or (place,)]
    if weights is not None:
        return _local(repository, name, weights, needed) / name
    from scedit_cli.models.loading import quiet

    try:
        with quiet():
            return download_file(repository, name)
    except (OSError, ValueError) as error:
        raise _unreachable(repository, needed) from error


def digest_of_weights(places: Sequence[str], weights: Path) -> str:
    """Return a digest of the files in the folder `weights` that an annotator whose weights are at `places` loads; where
    they are not there, the folder's path."""
    files: dict[str, Path] = {}
    try:
        for place in places:
            repository, _, name = place.partition(":")
            folder = _local(repository, name or "config.json", weights)
            names = [name] if name else [file.name for file in folder.iterdir() if file.suffix in _LOADED]
            files |= {f"{repository}/{each}": folder / each for each in sorted(names)}
        digests = [(name, sha256(file)) for name, file in files.items()]
    except (OSError, SceditError):
        return str(weights.absolute())
    return hashlib.sha256(str(digests).encode()).hexdigest()


def state_of(place: str, weights: Path | None, among: Sequence[str] = ()) -> dict[str, Any]:
    """Load the PyTorch file at a place on the CPU. It may hold only tensors and plain containers, since a pickle can
    carry code. Arguments and further errors are those of `weights_file`.

    Raises:
        SceditError: it is no such file, or holds other objects.
    """
    import torch

    path = weights_file(place, weights, among)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises errors of any class
        repository, name = place.split(":")
        hint = _download(repository, [name])
        raise not_loaded(error, f"{path} holds no plain PyTorch weights", hint) from error


def filled(network: Module, state: dict[str, Tensor], place: str, device: str) -> Module:
    """Return the network with the weights `state`, strictly loaded, in float32 and evaluation mode on `device`. The
    prefix "module.", which data-parallel training adds to names, is dropped.

    Raises:
        SceditError: weights are missing, unexpected, or of other shapes.
    """
    try:
        network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    except (RuntimeError, AttributeError) as error:
        told = reason(error, whole=True)
        raise SceditError(f"{place} does not hold the weights of {type(network).__name__}: {told}") from error
    return network.float().eval().to(device)


def pretrained(
    loader: Any,
    repository: str,
    weights: Path | None,
    device: str | None = None,
    unused: tuple[str, ...] = (),
    **options: Any,
) -> Any:
    """Load a model or processor by its class in transformers, `loader`, from the local copy or the hub.

    Args:
        device: the device on which a model is to run; None for a processor.
        unused: prefixes of the parameters that the model does not use, so that files may lack them.

    Raises:
        SceditError: `weights` has no such model, or an incomplete one.
        WorkFailed: the hub cannot be reached.
    """
    from scedit_cli.models.loading import quiet

    options = options | {"trust_remote_code": False}  # else transformers asks the user whether to run it
    if weights is None:
        source, options = repository, options | {"local_files_only": not answers(repository)}
    else:
        source = str(_local(repository, "config.json", weights))
    try:
        with quiet():
            if device is None:
                return loader.from_pretrained(source, **options)
            model, found = loader.from_pretrained(source, output_loading_info=True, **options)
    except Exception as error:  # downloaded pickles and configurations raise errors of any class
        if weights is None and isinstance(error, (OSError, ValueError)) and not is_out_of_memory(error):
            raise _unreachable(repository) from error
        raise not_loaded(error, f"{source} cannot be loaded", _download(repository), whole=True) from error
    # Transformers initialises parameters that a file lacks at random. Buffers follow from the configuration.
    lacking = [name for name, _ in model.named_parameters() if name in found["missing_keys"]]
    lacking = [name for name in lacking if not name.startswith(unused)]
    if lacking:
        more = f" and {len(lacking) - 1} more are" if len(lacking) > 1 else " is"
        raise SceditError(
            f"{source} is no complete {type(model).__name__}: {lacking[0]}{more} missing", hint=_download(repository)
        )
    return model.float().eval().to(device)


def _local(repository: str, name: str, weights: Path, needed: Sequence[str] = ()) -> Path:
    """Return the folder that has `name`: WEIGHTS/owner/repository, WEIGHTS/repository, or WEIGHTS itself."""
    if not weights.is_dir():
        raise SceditError(f"weights {weights} is no folder", _download(repository, needed), "weights")
    for folder in (weights / repository, weights / repository.split("/")[-1], weights):
        if (folder / name).is_file():
            for file in (folder / name, *sorted(folder.glob("*.safetensors"))):
                check_fetched(file, f"weights {file}")
            return folder
    message = f"weights {weights} has no {name} of {repository}"
    raise SceditError(message, _download(repository, needed, weights), "weights")


def _unreachable(repository: str, needed: Sequence[str] = ()) -> WorkFailed:
    what = f"{', '.join(needed)} of {repository}" if needed else repository
    return WorkFailed(
        f"the weights {what} are not here, and the hub does not give them", hint=_download(repository, needed)
    )


def _download(repository: str, names: Sequence[str] = (), weights: Path | str = "DIR") -> str:
    command = " ".join(("hf download", repository, *names))
    return f"where there is a connection: {command} --local-dir {weights}/{repository}; then `weights={weights}`"
