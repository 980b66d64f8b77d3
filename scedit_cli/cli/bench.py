"""`scedit bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scedit_cli.cli.options import Debug, Device, Json, Quiet, Tuners, parts, screen_for
from scedit_cli.utils.devices import device_here
from scedit_cli.utils.errors import SceditError

_COST, _QUALITY, _SKIPS, _CI = "Costs", "Quality", "Skips", "For scripts"


def bench(
    methods: Annotated[
        str, typer.Option(metavar="sc,lora,...", help="What to compare; by default sc,csc,lora,full,controlnet.")
    ] = "",
    base: Annotated[
        str | None,
        typer.Option("--base", help="scenes, sd15, sd21, sdxl (random weights), a folder, file or hub id\\[@revision]"),
    ] = None,
    prediction: Annotated[
        str | None,
        typer.Option(metavar="epsilon|v_prediction", help="What --base predicts, for --skips and --tuner."),
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Pictures in a training step.")] = None,
    resolution: Annotated[int | None, typer.Option(min=8, help="Side of the pictures in pixels.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the frozen base: fp32, bf16 or fp16.")] = None,
    device: Device = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps: to time, or under --quality to train.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="The picture; by default bench.png, quality.png or skips.png, with --json none.")
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="No arithmetic: exact parameters and FLOPs, predicted memory.",
                           rich_help_panel=_COST)
    ] = False,
    fits: Annotated[
        str | None, typer.Option(metavar="12GiB", help="Tell the largest batch that fits this memory.",
                                 rich_help_panel=_COST)
    ] = None,
    batches: Annotated[
        str, typer.Option(metavar="1,4,16", help="Estimate peak memory at these batch sizes.", rich_help_panel=_COST)
    ] = "",
    rounds: Annotated[
        int | None, typer.Option(min=1, help="How often each method is measured, in turns.", rich_help_panel=_COST)
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Measure with torch.compile.", rich_help_panel=_COST)
    ] = False,
    lora_rank: Annotated[int | None, typer.Option(min=1, help="r of LoRA; 64.", rich_help_panel=_COST)] = None,
    lora_feed_forward: Annotated[
        bool, typer.Option("--lora-feed-forward", help="LoRA on feed-forward layers too.", rich_help_panel=_COST)
    ] = False,
    down_ratio: Annotated[
        float | None, typer.Option(help="Hidden width of tuners, as a share of a skip's channels; 1.",
                                   rich_help_panel=_COST)
    ] = None,
    quality: Annotated[
        bool, typer.Option("--quality", help="Control scores of --tuner; or train --methods on the embedded world.",
                           rich_help_panel=_QUALITY)
    ] = False,
    tuner: Tuners = [],
    scenes: Annotated[
        int | None, typer.Option(min=1, help="Held-out scenes to draw; 128.", rich_help_panel=_QUALITY)
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, help="Training time of every method, on a CPU the processor's; 75.",
                     rich_help_panel=_QUALITY),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Trainings of every method; 3.", rich_help_panel=_QUALITY)
    ] = None,
    learning_rate: Annotated[
        list[str], typer.Option(metavar="METHOD=RATE", help="Instead of the method's own; repeatable.",
                                rich_help_panel=_QUALITY)
    ] = [],
    keep: Annotated[
        Path | None, typer.Option(help="Keep each finished training in this folder; the same command goes on there.",
                                  rich_help_panel=_QUALITY)
    ] = None,
    sampling: Annotated[
        bool, typer.Option("--sampling", help="Time a step of sampling instead.", rich_help_panel=_COST)
    ] = False,
    show: Annotated[
        Path | None, typer.Option(help="Show an earlier --json document; nothing is measured.", rich_help_panel=_CI)
    ] = None,
    skips: Annotated[
        bool, typer.Option("--skips", help="What each skip connection carries.", rich_help_panel=_SKIPS)
    ] = False,
    skip_scale: Annotated[
        float | None, typer.Option(help="Factor that rescales a skip; 0.5.", rich_help_panel=_SKIPS)
    ] = None,
    skip_noise: Annotated[
        float | None, typer.Option(min=0, help="Noise in units of a skip's deviation; 1.", rich_help_panel=_SKIPS)
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="An earlier --json document; exit code 1 if worse.", rich_help_panel=_CI)
    ] = None,
    tolerance: Annotated[
        str | None,
        typer.Option(help="How much worse than --baseline is the same, such as 0.1; 5%.", rich_help_panel=_CI),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write the JSON document here.", rich_help_panel=_CI)
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Tables as Markdown on stdout.", rich_help_panel=_CI)
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Results as CSV on stdout.", rich_help_panel=_CI)] = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare training methods by cost and quality, score tuners, or see what skips carry.

    \b
    Examples:
      scedit bench
      scedit bench --estimate --base sdxl --batch 4 --fits 24GiB
      scedit bench --methods sc,csc,lora,lora-lean --rounds 3 --json > bench.json
      scedit bench --methods sc,csc --json --baseline bench.json --tolerance 5%
      scedit bench --quality --tuner runs/canny/tuner.safetensors
      scedit bench --quality --methods sc,lora,full --seconds 60 --keep trained
      scedit bench --sampling --base sd15 --resolution 256
      scedit bench --skips
      scedit bench --show bench.json --markdown
    """
    with screen_for(json_, quiet, debug) as screen:
        if len(asked := [name for name, on in (("json", json_), ("markdown", markdown), ("csv", csv)) if on]) > 1:
            raise SceditError(f"--{asked[0]} and --{asked[1]} both want stdout", hint="--out FILE takes the JSON")
        from scedit_cli.jobs.checks import bench as checks

        if plot is None and not (asked or tuner or sampling or show):
            plot = Path("skips.png" if skips else "quality.png" if quality else "bench.png")
        options = {
            "base": base, "prediction": prediction, "methods": parts(methods) or None, "batch": batch,
            "resolution": resolution, "dtype": dtype, "device": device, "steps": steps, "rounds": rounds,
            "compiled": compiled, "lora_rank": lora_rank, "lora_feed_forward": lora_feed_forward,
            "down_ratio": down_ratio, "fits": fits, "batches": _numbers("--batches", batches), "estimate": estimate,
            "sampling": sampling, "skips": skips, "skip_scale": skip_scale, "skip_noise": skip_noise,
            "quality": quality, "tuners": tuner, "scenes": scenes, "seconds": seconds, "seeds": seeds,
            "learning_rates": _rates(learning_rate), "keep": keep, "show": show, "plot": plot, "baseline": baseline,
            "tolerance": tolerance, "out": out,
        }  # fmt: skip
        checks.check(options)  # before PyTorch is imported
        options["device"] = device if estimate or show else device_here(device)
        from scedit_cli.jobs import bench as job

        result = job.bench(**options, on_event=screen)
    if markdown or csv:
        screen.text({}, result.markdown() if markdown else result.csv())
    elif json_:
        screen.result(result.document(), [])
    else:
        for title, table in result.tables():
            screen.result({}, [("setting", title)] if title else [])
            screen.table({}, *table)
        screen.result({}, [("plot", str(result.plot))] if result.plot else [])
    for sentence in result.worse:
        screen.warn(sentence)
    if result.unwritten:
        screen.warn(str(result.unwritten))
    if result.worse or result.unwritten:
        raise typer.Exit(1)


def _numbers(option: str, text: str) -> list[int]:
    if bad := [part for part in parts(text) if not part.isdecimal() or int(part) < 1]:
        raise SceditError(f"{option} {text}: {bad[0]} is no batch size", hint="write it as 1,4,16")
    return [int(part) for part in parts(text)]


def _rates(texts: list[str]) -> dict[str, float]:
    rates = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            rates[name] = float(value)
        except ValueError:
            rates[name] = -1.0
        if not 0 < rates[name] < 1:
            raise SceditError(f"--learning-rate {text}: {value} is no learning rate", hint="write it as sc=0.003")
    return rates
