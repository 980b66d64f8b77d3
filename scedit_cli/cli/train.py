"""The command `scedit train`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scedit_cli.cli.options import Debug, Device, Json, Overwrite, Quiet, screen_for, screen_of_first
from scedit_cli.utils.devices import device_here
from scedit_cli.utils.errors import SceditError

if TYPE_CHECKING:
    from scedit_cli.cli.console import Screen

_SHOWN = 80  # longest quotation of a user's text in a message


def train(
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="TOML file, or name of a built-in recipe.")
    ] = None,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Set a key, such as train.steps=200; repeatable.")
    ] = [],
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; by default a new one in runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the run's last checkpoint.")] = False,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be trained, and stop before the first step.")
    ] = False,
    fit: Annotated[
        bool,
        typer.Option("--fit", help="Show the least change of settings that fits this device's memory, and stop."),
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the built-in recipes.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe with all defaults.")] = False,
    explain: Annotated[
        str | None, typer.Option("--explain", metavar="KEY", help="Explain a key (train.steps), a section, or all.")
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option("--push-to-hub", metavar="USER/NAME", help="Hub repository to upload the result to.")
    ] = None,
    device: Device = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a tuner from a recipe; `--list` shows the built-in recipes.

    \b
    Examples:
      scedit train --recipe canny.toml
      scedit train --recipe canny.toml --set train.steps=1200 --out runs/longer
      scedit train --recipe canny.toml --out runs/longer --resume
      scedit train --recipe sdxl-depth.toml --set data.path=dataset --set base.model=sdxl.safetensors --dry-run
      scedit train --recipe sdxl-depth.toml --set data.path=dataset --set base.model=sdxl.safetensors --fit
      scedit train --explain train.timestep_shift
      torchrun --nproc-per-node 4 -m scedit_cli train --recipe sd15-canny.toml --set data.path=dataset
    """
    if list_:
        return _list(screen_for(json_, quiet, debug))
    if explain:
        return _explain(explain, screen_for(json_, quiet, debug))
    from scedit_cli.recipe import load_recipe

    if not recipe:
        raise SceditError("--recipe is missing", hint="name a file, or one of those that scedit train --list shows")
    loaded = load_recipe(recipe, settings(set_))
    if show:
        return screen_for(json_, quiet, debug).text(loaded.model_dump(exclude_none=True), loaded.to_toml())
    with screen_of_first(json_, quiet, debug) as screen:
        from scedit_cli.jobs.checks.train import TrainRequest, check

        options = {"out": out, "resume": resume, "overwrite": overwrite, "dry_run": dry_run, "push_to_hub": push_to_hub}
        check(TrainRequest(loaded, **options))  # refuses bad options before the slow import of PyTorch
        from scedit_cli.jobs import train as job

        result = job.train(loaded, **options, fit=fit, device=device_here(device), reporter=screen)
    if result:
        screen.result(result.document(), result.summary())


def settings(texts: Iterable[str]) -> dict[str, Any]:
    """Parse "SECTION.KEY=VALUE" texts, where the value is TOML or, failing that, plain text, to values by key."""
    from scedit_cli.recipe.loading import toml_value

    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not all((*(parts := key.strip().split(".")), parts[1:])):
            raise SceditError(
                f"--set {text[:_SHOWN]}: expected SECTION.KEY=VALUE", hint="for example --set train.steps=200"
            )
        values[key.strip()] = toml_value(value.strip())
    return values


def _list(screen: Screen) -> None:
    from scedit_cli.recipe import builtin_recipes, load_recipe

    recipes = []
    for name, path in builtin_recipes().items():
        about = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        tuner = load_recipe(path).tuner
        recipes.append({"name": name, "kind": tuner.kind, "condition": tuner.condition, "about": about})
    screen.result({"recipes": recipes}, [(each["name"], each["about"]) for each in recipes])


def _explain(name: str, screen: Screen) -> None:
    from scedit_cli.recipe.explain import explain

    found = explain(name)
    rows = [(each.key, f"{each.meaning} ({each.values})") for each in found]
    screen.result({"keys": [asdict(each) for each in found]}, rows)
