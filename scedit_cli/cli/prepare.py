"""The command `scedit prepare`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scedit_cli.cli.options import BaseModel, Debug, Device, Json, Quiet, parts, screen_of_first
from scedit_cli.utils.devices import device_here
from scedit_cli.utils.errors import SceditError

if TYPE_CHECKING:
    from scedit_cli.jobs.checks.prepare import PrepareRequest

_DEFAULTS = {"look": "plain", "base": "scenes"}


def prepare(
    out: Annotated[Path, typer.Option("--out", help="Dataset folder to write.")],
    src: Annotated[
        str | None,
        typer.Argument(
            help="Images: a folder, .zip, table, .tar shards, or a Hugging Face dataset. Leave it out with --scenes, "
            "or to cache or shard the dataset in --out."
        ),
    ] = None,
    conditions: Annotated[
        list[str],
        typer.Option("--cond", metavar="KIND=FOLDER", help="Condition images, such as depth=maps, paired by stem."),
    ] = [],  # noqa: B006
    columns: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=COLUMN",
            help="Columns of a table or shard that hold image, text or a condition, such as image=photo,text=prompt.",
        ),
    ] = [],  # noqa: B006
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of a Hugging Face dataset, or of folders called train, validation, test; train by default."
        ),
    ] = None,
    subset: Annotated[str | None, typer.Option(help="Subset of a Hugging Face dataset.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hugging Face dataset.")] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=8, help="Side in pixels, 512, for scenes 128; images keep their shapes, with about as many pixels."
        ),
    ] = None,
    square: Annotated[bool, typer.Option("--square", help="Cut all images to squares of --size.")] = False,
    upscale: Annotated[bool, typer.Option("--upscale", help="Enlarge images that are smaller than --size.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where the report lists any image by name.")
    ] = False,
    allow_captionless: Annotated[
        bool, typer.Option("--allow-captionless", help="Allow more than 1 % of the images without a caption.")
    ] = False,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Leave out images that look like an earlier one.")
    ] = False,
    scenes: Annotated[int | None, typer.Option(min=1, help="Render this many scenes of the embedded world.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene.")] = 0,
    look: Annotated[str, typer.Option(help="Look of the scenes: plain or pastel.")] = "plain",
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Allow the scenes that are reserved for evaluation.")
    ] = False,
    cache: Annotated[
        str, typer.Option(metavar="latents,text", help="Encode latents or text now, for training.")
    ] = "",
    base: BaseModel = "scenes",
    vae: Annotated[
        str | None, typer.Option(help="Other autoencoder for --cache: a folder, hub id or file.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="bf16|fp32|fp16", help="Precision of --cache text, as the recipe's; by default, its auto."
        ),
    ] = None,
    device: Device = None,
    shards: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Also write WebDataset shards of N images.")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a dataset folder of images, captions and condition images, all checked and resized.

    `accelerate launch` divides the encoding of --cache among its processes.

    \b
    Examples:
      scedit prepare --scenes 8 --out scenes
      scedit prepare photos --out dataset --size 512
      scedit prepare photos --cond depth=maps --out dataset --strict
      scedit prepare owner/dataset --columns image=photo,text=prompt,canny=edges --out dataset
      scedit prepare --out dataset --cache latents,text --base models/sd15
      accelerate launch -m scedit_cli prepare photos --out dataset --cache latents,text
    """
    with screen_of_first(json_, quiet, debug) as screen:
        from scedit_cli.cli.parsing import parse_each_named

        options = {
            "conditions": parse_each_named(conditions, "--cond", "depth=maps"),
            "columns": parse_each_named(parts(*columns), "--columns", "text=prompt"),
            "split": split, "subset": subset, "revision": revision, "scenes": scenes, "seed": seed, "look": look,
            "held_out": held_out, "size": size, "square": square, "upscale": upscale, "strict": strict,
            "allow_captionless": allow_captionless, "drop_duplicates": drop_duplicates, "cache": parts(cache),
            "base": base, "vae": vae, "precision": precision, "device": device, "shards": shards,
        }  # fmt: skip
        from scedit_cli.jobs.checks import prepare as checks

        request = request_of(src, out, options)
        checks.check(request)  # refuses bad options before the slow import of PyTorch
        from scedit_cli.jobs import prepare as job

        if request.encoding:
            request = replace(request, encoding=replace(request.encoding, device=device_here(device)))
        result = job.prepare(**vars(request), reporter=screen)
    if result.is_first:
        screen.result(result.document(), result.summary())


def request_of(src: str | Path | None, out: Path, options: Mapping[str, Any]) -> PrepareRequest:
    """Return the request that the command's options make.

    Raises:
        SceditError: an option would do nothing.
    """
    from scedit_cli.data.sources.entry import Images
    from scedit_cli.jobs.checks.prepare import THERE, Encoding, ImportRules, PrepareRequest, Scenes, check_idle

    def taken(group: type) -> dict[str, Any]:
        return {each.name: options[each.name] for each in fields(group) if each.name in options}

    scenes = options["scenes"]
    source = None if src is None else Images(src, **taken(Images))
    source = source if scenes is None else Scenes(scenes, **taken(Scenes))
    encoding = Encoding(**taken(Encoding)) if options["cache"] else None
    rules = ImportRules(**taken(ImportRules))
    request = PrepareRequest(source, out, options["size"], rules, encoding, options["shards"])
    if (src is None) == (scenes is None) and not request.is_made:
        raise SceditError(
            "prepare takes images or a number of scenes" + (", not both" if scenes else ""),
            hint="scedit prepare PHOTOS --out DIR, or scedit prepare --scenes 100 --out DIR",
        )
    given = {name for name, value in options.items() if value and value != _DEFAULTS.get(name)}
    case = "with `scenes`" if scenes else "with images" if source else THERE
    check_idle(given, [case] if encoding else [case, "without `cache`"])
    return request
