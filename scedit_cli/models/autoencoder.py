"""Loading of an autoencoder that replaces a base's own."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from scedit_cli.models.latents import check_latents
from scedit_cli.models.loading import quiet
from scedit_cli.models.names import check_autoencoder
from scedit_cli.models.parts import check_weights, homeless, load_part, missing
from scedit_cli.models.single_file_keys import homeless_in_autoencoder
from scedit_cli.utils.errors import SceditError, not_loaded
from scedit_cli.utils.fetched import check_fetched
from scedit_cli.utils.hub import download_autoencoder
from scedit_cli.utils.io import expanded, read_json

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def open_autoencoder(
    model: str | Path, own: AutoencoderKL, revision: str | None = None
) -> tuple[AutoencoderKL, str | None]:
    """Return the autoencoder `model` in float32 on the CPU, and its commit on the hub (None for local files).

    Args:
        model: the folder of an autoencoder or of a pipeline, a hub id of either, or a .safetensors file in diffusers'
            or the original layout; a file is read with the sizes and the scaling of `own`.
        own: the base's autoencoder.
        revision: branch, tag or commit of a hub id.

    Raises:
        SceditError: `model` does not exist, is no AutoencoderKL, or has other latents than the base.
    """
    path, commit = expanded(model), None
    check_fetched(path, f"autoencoder {model}")
    if revision and path.exists():
        raise SceditError(f"autoencoder {model}: it has no revision {revision}, it is not on the hub", "leave it out")
    if path.is_file():
        vae = _from_file(path, own)
    else:
        if not path.is_dir():
            check_autoencoder(model)
            path, commit = download_autoencoder(str(model), revision)
        vae = _from_folder(path if (path / "config.json").is_file() else path / "vae", str(model))
    if vae.config.latent_channels != own.config.latent_channels:
        raise SceditError(
            f"autoencoder {model}: its latents have {vae.config.latent_channels} channels, the base's "
            f"{own.config.latent_channels}",
            hint="take one that was made for this family of bases",
        )
    check_latents(vae, f"autoencoder {model}")
    if own.config.get("latents_mean") is not None and vae.config.get("latents_mean") is None:
        raise SceditError(
            f"autoencoder {model}: its configuration has no latents_mean and latents_std, which the base's U-Net was "
            "trained with",
            hint="take one that has them, or its lone .safetensors file, which is scaled as the base's own",
        )
    scale, expected = vae.config.scaling_factor, own.config.scaling_factor
    if scale != expected and vae.config.get("latents_mean") is None:  # latents_mean and latents_std scale by themselves
        raise SceditError(
            f"autoencoder {model}: its latents are scaled by {scale}, the base's by {expected}",
            hint="take one that was made for this family of bases; if it was, set scaling_factor in its config.json",
        )
    return vae, commit


def _from_folder(folder: Path, name: str) -> AutoencoderKL:
    from diffusers import AutoencoderKL
    from safetensors import SafetensorError

    try:
        kind = read_json((folder / "config.json").read_text("utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError):
        raise SceditError(f"autoencoder {name}: it has no config.json", "name one that diffusers wrote") from None
    if kind != "AutoencoderKL":
        raise SceditError(f"autoencoder {name}: it is of the kind {kind}, not AutoencoderKL", "take one of that kind")
    check_weights(folder, torch.float32, f"autoencoder {name}: ")
    try:
        with quiet():
            return load_part(folder, AutoencoderKL, torch.float32, f"autoencoder {name}: weights")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unloadable(name, error) from error


def _from_file(file: Path, own: AutoencoderKL) -> AutoencoderKL:
    from diffusers import AutoencoderKL
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if file.suffix != ".safetensors":
        raise SceditError(
            f"autoencoder {file}: only .safetensors files are read, a pickle may run code",
            hint="convert it, or get it in that format",
        )
    try:
        weights = load_file(file)
        if any(key.startswith("encoder.down_blocks.") for key in weights):
            return _from_diffusers_file(file, own)
        with TemporaryDirectory() as folder, quiet():
            own.save_config(folder)
            vae = AutoencoderKL.from_single_file(
                str(file), config=folder, dtype=torch.float32, local_files_only=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _unloadable(str(file), error) from error
    if any(weight.is_meta for weight in vae.parameters()):
        raise missing(f"autoencoder {file}: weights")
    if spare := homeless_in_autoencoder(weights, vae):
        raise homeless(f"autoencoder {file}: weights", spare)
    return vae


def _from_diffusers_file(file: Path, own: AutoencoderKL) -> AutoencoderKL:
    """Load the file from a folder with `own`'s configuration, where diffusers also knows older names of weights."""
    with TemporaryDirectory() as folder, quiet():
        own.save_config(folder)
        (Path(folder) / "diffusion_pytorch_model.safetensors").symlink_to(file.absolute())
        return load_part(Path(folder), type(own), torch.float32, f"autoencoder {file}: weights")


def _unloadable(name: str, error: Exception) -> SceditError:
    return not_loaded(error, f"autoencoder {name}: it cannot be loaded", "get it again, or take another", whole=True)
