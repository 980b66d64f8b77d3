"""The first checks of an evaluation of tuners."""

from __future__ import annotations

from pathlib import Path

from scedit_cli.benchmark.requests import EvaluationRequest
from scedit_cli.conditions.protocols import find_protocol
from scedit_cli.data.sources.webdataset import is_shards
from scedit_cli.jobs.checks.common import check_folder
from scedit_cli.jobs.checks.tuners import header_of
from scedit_cli.models.names import check_model
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.fields import check_choice, check_number
from scedit_cli.utils.io import check_writable, expanded
from scedit_cli.utils.names import PRECISIONS, PREDICTIONS


def check(request: EvaluationRequest) -> None:
    """Raise SceditError for every fault that shows without weights."""
    find_protocol(request.protocol)
    if request.dtype is not None and request.dtype not in PRECISIONS:
        raise SceditError(f"`dtype` {request.dtype}: not known", f"choose one of {', '.join(PRECISIONS)}", "dtype")
    if request.prediction is not None:
        check_choice(request.prediction, "prediction", PREDICTIONS)
    sampling = request.sampling
    for name, value in {"images": request.images, "steps": sampling.steps, "batch": sampling.batch_size}.items():
        if value is not None and value < 1:
            raise SceditError(f"`{name}` is {value}", "give 1 or more", name)
    if sampling.guidance is not None:
        check_number(sampling.guidance, "guidance", 0)
    check_number(sampling.control_guidance, "control_guidance", 1)
    if sampling.seed < 0:
        raise SceditError(f"`seed` is {sampling.seed}", "give 0 or more", "seed")
    if request.weights is not None:
        check_folder(expanded(request.weights), "`weights`")
    if request.clip is not None:
        check_folder(expanded(request.clip), "`clip`")
    if request.inception is not None and not expanded(request.inception).is_file():
        raise SceditError(f"`inception` {request.inception}: no such file", "check the path", "inception")
    if request.keep is not None:
        check_writable(expanded(request.keep), "`keep`")
    if isinstance(request.base, str):
        check_model(request.base)
    if isinstance(request.data, str | Path) and not is_shards(str(request.data)):
        place = expanded(request.data)
        if not place.exists():
            raise SceditError(f"`data` {request.data} does not exist", "name a dataset folder, or shards", "data")
    for each in (*request.tuners, *(request.against or ())):
        if each.file is not None:
            header_of(each.file)
