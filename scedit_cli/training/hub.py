"""The model card of a run, and its way to the hub."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from scedit_cli.base import Base
from scedit_cli.errors import SceditError, WorkFailed, reason
from scedit_cli.files import write_whole
from scedit_cli.markdown import block, plain, span
from scedit_cli.pipelines import EMBEDDED
from scedit_cli.recipe import Recipe
from scedit_cli.training.runs import Run

_LICENCES = {"scenes": "apache-2.0", "sd15": "creativeml-openrail-m", "sd21": "openrail++", "sdxl": "openrail++"}
_OWN = ("run", "tuner")  # facts that tell of this machine's folders
_UPLOADED = ["tuner.safetensors", "recipe.toml", "README.md", "log.jsonl", "loss.png", "samples/*"]


def write_card(run: Run, recipe: Recipe, base: Base, facts: Mapping[str, str], score: float | None) -> None:
    """Writes the run's README.md, as the hub reads it: how the tuner is used, how it was made and what it does.

    The licence is the one that the base's family was published under, to which a tuner of it is bound.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    kind = recipe.tuner.condition
    task = "image-to-image" if kind else "text-to-image"
    title = f"{kind or recipe.name}: a {recipe.tuner.kind.upper()}-Tuner"
    data = {
        "library_name": "scedit",
        "pipeline_tag": task,
        "license": _LICENCES.get(base.family, "other"),
        "tags": ["scedit", f"{recipe.tuner.kind}-tuner", "diffusion", *([kind] if kind else [])],
    }
    if base.name != EMBEDDED and not base.name.startswith(("/", ".")):
        data["base_model"] = base.name
    if score is not None:
        result = EvalResult(task, "scenes", "held-out scenes", "control_score", score, metric_name="control score")
        data |= {"model_name": title, "eval_results": [result]}
    command = "scedit generate --tuner tuner.safetensors"
    if base.name != EMBEDDED:
        command += f" --base {shlex.quote(base.name)}"
    command += f" --cond {kind}=condition.png --prompt ..." if kind else " --prompt ..."
    grids = sorted(run.samples.glob("[!.]*.png"))
    columns = "condition, without the tuner, with it, reference" if kind else "without the tuner, with it, reference"
    parts = [
        f"---\n{ModelCardData(**data).to_yaml()}\n---",
        f"# {plain(title)}",
        "A tuner of a diffusion model's skip connections, after [SCEdit](https://arxiv.org/abs/2312.11392), trained "
        f"with `scedit` on the base {span(base.name)} (U-Net fingerprint `{base.fingerprint}`).",
        block(command, "bash"),
        "| | |\n|---|---|\n"
        + "\n".join(f"| {plain(name)} | {plain(value)} |" for name, value in facts.items() if name not in _OWN),
    ]
    if grids:
        parts.append(f"From left to right: {columns}.\n\n![Samples](samples/{grids[-1].name})")
    parts += ["![Loss](loss.png)", f"## Recipe\n\n{block(recipe.to_toml().strip(), 'toml')}"]
    write_whole(run.card, str(ModelCard("\n\n".join(parts) + "\n")))


def check_hub(repository: str) -> None:
    """
    Raises:
        SceditError: the hub cannot be reached, nobody is logged in to it, or `repository` is no name of one.
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


def upload(run: Run, repository: str) -> str:
    """Uploads what others need of the run; returns the repository's address.

    Raises:
        WorkFailed: the hub did not take it.
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
