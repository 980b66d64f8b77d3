"""The request of `train`, and its first checks."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from scedit_cli import conditions
from scedit_cli.conditions.annotation_spec import make_specs
from scedit_cli.data.dataset import column_of, read_rows
from scedit_cli.data.scenes import POSSIBLE_KINDS
from scedit_cli.data.shards import shard_places
from scedit_cli.data.sources.webdataset import is_shards
from scedit_cli.jobs.checks.common import check_library
from scedit_cli.jobs.checks.tuners import header_of
from scedit_cli.models.names import check_autoencoder, check_model
from scedit_cli.recipe import Recipe
from scedit_cli.scenes import tuner_place
from scedit_cli.training.run_folder import RunFolder, choose_run
from scedit_cli.utils.errors import SceditError, in_field, not_installed
from scedit_cli.utils.hub import check_repository
from scedit_cli.utils.io import check_writable
from scedit_cli.utils.names import QUANTIZERS

# Values of a recipe's keys: the library that they need, and the extra that installs it.
_OPTIMIZERS = {
    "adamw-8bit": ("bitsandbytes", "8bit"),
    "prodigy": ("prodigyopt", "prodigy"),
    "schedule-free": ("schedulefree", "schedule-free"),
}
_TRACKERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}


@dataclass(frozen=True)
class TrainRequest:
    """The arguments of `train`, which describes them."""

    recipe: Recipe
    out: str | Path | None = None
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False
    push_to_hub: str | None = None
    device: str | None = None

    def run(self) -> RunFolder:
        """Return the run's folder; raises SceditError as `choose_run`."""
        return choose_run(self.recipe.name, self.out, self.resume, self.overwrite)


def check(request: TrainRequest) -> None:
    """Raise SceditError for every fault that shows without weights."""
    recipe = request.recipe
    check_writable(request.run().folder, "`out`")
    check_model(recipe.base.model)
    if recipe.base.vae is not None:
        check_autoencoder(recipe.base.vae)
    if recipe.tuner.weights:
        _check_weights(request, recipe.tuner.weights)
    _check_libraries(recipe)
    if request.push_to_hub:
        check_repository(request.push_to_hub)
    make_specs(recipe.data.make, recipe.data.params, where="data.params:")
    measured = conditions.measured_kinds()
    for kind in recipe.tuner.kinds if recipe.validation.metrics else ():
        if kind not in measured:
            message = f"validation.metrics: nothing measures {kind}"
            raise SceditError(message, f"it is measured for {', '.join(measured)}", "validation.metrics")
    _check_data(recipe)


def _check_weights(request: TrainRequest, name: str) -> None:
    """Raise SceditError unless the tuner to start from is there, where it is needed, and stays there."""
    run = request.run()
    with in_field("tuner.weights"):
        if not request.resume:
            header_of(name)
        if request.overwrite and tuner_place(name).resolve().is_relative_to(run.folder.resolve()):
            raise SceditError(f"{name} is in {run.folder}, which overwrite empties", "give another folder with `out`")


def _check_libraries(recipe: Recipe) -> None:
    if needed := _OPTIMIZERS.get(recipe.train.optimizer):
        check_library(f"train.optimizer {recipe.train.optimizer}", *needed)
    for name in recipe.tracking.to:
        if not any(map(find_spec, _TRACKERS[name])):
            raise not_installed(f"tracking.to {name}", name, name)
    if recipe.base.quantize != "none":
        check_library(f"base.quantize {recipe.base.quantize}", *QUANTIZERS[recipe.base.quantize])


def _check_data(recipe: Recipe) -> None:
    """Raise SceditError unless the data exists, or is rendered, and has or can get the tuner's condition."""
    path = recipe.data.path
    read = [kind for kind in recipe.tuner.kinds if kind not in recipe.data.make]
    if path is None:
        if unknown := [kind for kind in read if kind not in POSSIBLE_KINDS]:
            raise SceditError(
                f"{_told(recipe)} is {unknown[0]}, which rendered scenes do not have",
                hint=f"choose one of {', '.join(POSSIBLE_KINDS)}, or name a dataset folder with data.path",
            )
    elif is_shards(path):
        shard_places(path)  # raises SceditError that names a missing shard
    else:
        folder = Path(path)
        try:
            rows = [row for _, row in read_rows(folder)]
        except SceditError as error:
            hint = "`prepare(PHOTOS, out=DIR)` makes a dataset folder, `data.path=DIR` names it"
            raise SceditError(f"data.path: {error.message}", hint) from error
        for kind in read:
            if any(column_of(kind) in row for row in rows) or conditions.is_quick(kind):
                continue
            hint = f"`annotate({folder}, kinds={kind})` makes them"
            if kind not in conditions.KINDS:
                hint = f"nothing makes {kind}: `prepare(conditions={kind}=FOLDER)` takes them from a folder"
            raise SceditError(f"{_told(recipe)} is {kind}, and {folder} has no {column_of(kind)}", hint)


def _told(recipe: Recipe) -> str:
    return "one of tuner.conditions" if recipe.tuner.conditions else "tuner.condition"
