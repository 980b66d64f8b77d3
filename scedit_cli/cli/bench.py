"""The command `scedit bench`."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Annotated

import typer

from scedit_cli.cli.options import Debug, Device, Json, Overwrite, Quiet, Tuners, parts, screen_of_first
from scedit_cli.utils.devices import device_here
from scedit_cli.utils.errors import SceditError

_COST, _QUALITY, _SKIPS, _CI = "Costs", "Quality", "Skips", "For scripts"


def bench(
    methods: Annotated[
        str, typer.Option(metavar="sc,lora,...", help="Methods to compare; by default sc,csc,lora,full,controlnet.")
    ] = "",
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            help="scenes, a folder, file or hub id\\[@revision], or sd15, sd21, sdxl with random weights; by default "
            "sd15 on an accelerator, else scenes.",
        ),
    ] = None,
    prediction: Annotated[
        str | None,
        typer.Option(
            metavar="epsilon|v_prediction",
            help="What --base predicts, for --skips and --tuner; by default as its files say.",
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images in a training step; 8, or 1 for a large base on a CPU.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(min=8, help="Side of the images in pixels; by default the base's.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Precision of the frozen base: fp32, bf16 or fp16; bf16 for a large base on an accelerator."),
    ] = None,
    device: Device = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps to time, 10 (--sampling: 9), train (--quality) or sample (--skips, --tuner)."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Figure to write; by default bench.png, quality.png or skips.png, or the next free name, such as "
            "bench-2.png; no figure with --json. With --sampling: of generate's --reuse."
        ),
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Train nothing: exact parameters and FLOPs, predicted memory.",
                           rich_help_panel=_COST)
    ] = False,
    fits: Annotated[
        str | None, typer.Option(metavar="12GiB", help="Report the largest batch that fits into this memory.",
                                 rich_help_panel=_COST)
    ] = None,
    batches: Annotated[
        str, typer.Option(metavar="1,4,16", help="Batch sizes to estimate peak memory at.", rich_help_panel=_COST)
    ] = "",
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="How often each method is measured, in turns; 1 by default.", rich_help_panel=_COST),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the models with torch.compile.", rich_help_panel=_COST)
    ] = False,
    lora_rank: Annotated[
        int | None, typer.Option(min=1, help="Rank r of LoRA; 64 by default.", rich_help_panel=_COST)
    ] = None,
    lora_feed_forward: Annotated[
        bool, typer.Option("--lora-feed-forward", help="Adapt feed-forward layers by LoRA too.", rich_help_panel=_COST)
    ] = False,
    down_ratio: Annotated[
        float | None, typer.Option(help="Hidden width of tuners, as a share of a skip's channels; 1 by default.",
                                   rich_help_panel=_COST)
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option(metavar="int8|fp8|int4|nf4", help="Storage of the frozen weights.", rich_help_panel=_COST),
    ] = None,
    offload: Annotated[
        str | None,
        typer.Option(metavar="encoder", help="Keep the frozen encoder in the host's memory.", rich_help_panel=_COST),
    ] = None,
    with_: Annotated[
        str,
        typer.Option(
            "--with",
            metavar="vae,text,reserve",
            help="Count encoders in the training loop, and what PyTorch reserves, in an estimate.",
            rich_help_panel=_COST,
        ),
    ] = "",
    quality: Annotated[
        bool, typer.Option("--quality", help="Score --tuner; without it, train --methods on the embedded world.",
                           rich_help_panel=_QUALITY)
    ] = False,
    tuner: Tuners = [],
    against: Annotated[
        list[str],
        typer.Option(metavar="FILE[:SCALE]", help="Tuner to compare --tuner with, image by image, or none; repeatable.",
                     rich_help_panel=_QUALITY),
    ] = [],
    data: Annotated[
        str | None,
        typer.Option(help="Dataset folder or shards to evaluate --tuner on; by default held-out scenes.",
                     rich_help_panel=_QUALITY),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(metavar="scedit|controlnet++", help="Figures of --tuner: tolerant (default), or the papers'.",
                     rich_help_panel=_QUALITY),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Images of --data; by default all of a folder, or 1000 of shards.",
                                 rich_help_panel=_QUALITY)
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale for --tuner; by default the base's.", rich_help_panel=_QUALITY)
    ] = None,
    control_guidance: Annotated[
        float | None,
        typer.Option(help="Guidance scale of the conditions for --tuner, as in generate.", rich_help_panel=_QUALITY),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Sampler for --tuner, as in generate.", rich_help_panel=_QUALITY)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the first image's noise; 0 by default.", rich_help_panel=_QUALITY)
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Folder with local weights of annotators.", rich_help_panel=_QUALITY)
    ] = None,
    clip: Annotated[
        Path | None, typer.Option(help="Folder with a CLIP model, for CLIP scores.", rich_help_panel=_QUALITY)
    ] = None,
    inception: Annotated[
        Path | None, typer.Option(help="TorchScript file of Inception, for FID.", rich_help_panel=_QUALITY)
    ] = None,
    scenes: Annotated[
        int | None,
        typer.Option(min=1, help="Held-out scenes; 128, --skips: 16, or 4 off the embedded base; --sampling: 32.",
                     rich_help_panel=_QUALITY),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, help="Training time of every method, on a CPU processor time; 75 by default.",
                     rich_help_panel=_QUALITY),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds to train each method with; 3 by default.", rich_help_panel=_QUALITY)
    ] = None,
    learning_rate: Annotated[
        list[str], typer.Option(metavar="METHOD=RATE", help="Learning rate, such as sc=0.003; repeatable.",
                                rich_help_panel=_QUALITY)
    ] = [],
    keep: Annotated[
        Path | None,
        typer.Option(
            help="Folder for finished trainings, from which the same command resumes; with --tuner for images, their "
            "table and a contact sheet.", rich_help_panel=_QUALITY,
        ),
    ] = None,
    sampling: Annotated[
        bool, typer.Option("--sampling", help="Time a sampling step instead of training steps.", rich_help_panel=_COST)
    ] = False,
    show: Annotated[
        Path | None, typer.Option(help="Show an earlier --json document instead of measuring.", rich_help_panel=_CI)
    ] = None,
    skips: Annotated[
        bool, typer.Option("--skips", help="Measure what each skip connection carries.", rich_help_panel=_SKIPS)
    ] = False,
    skip_scale: Annotated[
        float | None, typer.Option(help="Factor that rescales a skip; 0.5 by default.", rich_help_panel=_SKIPS)
    ] = None,
    skip_noise: Annotated[
        float | None,
        typer.Option(min=0, help="Noise in standard deviations of a skip; 1 by default.", rich_help_panel=_SKIPS),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Earlier --json document; a worse result exits with 1.", rich_help_panel=_CI)
    ] = None,
    tolerance: Annotated[
        str | None,
        typer.Option(
            help="Share by which a figure may fall behind --baseline, such as 0.1; 5% by default.", rich_help_panel=_CI
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write the JSON document to as well.", rich_help_panel=_CI)
    ] = None,
    overwrite: Overwrite = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the tables as Markdown.", rich_help_panel=_CI)
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print the results as CSV.", rich_help_panel=_CI)] = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare training methods by cost and quality, score tuners, or measure what skips carry.

    \b
    Examples:
      scedit bench
      scedit bench --estimate --base sdxl --batch 4 --fits 24GiB
      scedit bench --estimate --base sdxl --batch 1 --methods csc-checkpoint --quantize int4 --offload encoder
      scedit bench --methods sc,csc,lora,lora-lean --rounds 3 --json > bench.json
      scedit bench --methods sc,csc --json --baseline bench.json --tolerance 5%
      scedit bench --quality --tuner runs/canny/tuner.safetensors
      scedit bench --quality --tuner mine.safetensors --base photoreal --data dataset --images 100 --keep evaluated
      scedit bench --quality --tuner a.safetensors --against b.safetensors --protocol controlnet++ --data dataset
      scedit bench --quality --methods sc,lora,full --seconds 60 --keep trained
      scedit bench --sampling --base sd15 --resolution 256
      scedit bench --skips
      scedit bench --show bench.json --markdown
    """
    with screen_of_first(json_, quiet, debug) as screen:
        if len(asked := [name for name, on in (("json", json_), ("markdown", markdown), ("csv", csv)) if on]) > 1:
            raise SceditError(f"--{asked[0]} and --{asked[1]} both want stdout", hint="--out FILE takes the JSON")
        from scedit_cli.cli.bench_request import request_of
        from scedit_cli.jobs.checks.bench import check

        if plot is None and not (asked or tuner or sampling or show):
            usual = Path("skips.png" if skips else "quality.png" if quality else "bench.png")
            plot = usual if overwrite else _next_free(usual)
        request, output = request_of({
            "base": base, "prediction": prediction, "methods": parts(methods), "batch": batch,
            "resolution": resolution, "dtype": dtype, "device": device, "steps": steps, "rounds": rounds,
            "compiled": compiled, "lora_rank": lora_rank, "lora_feed_forward": lora_feed_forward,
            "down_ratio": down_ratio, "quantize": quantize, "offload": offload, "beside": parts(with_), "fits": fits,
            "batches": _numbers("--batches", batches), "estimate": estimate,
            "sampling": sampling, "skips": skips, "skip_scale": skip_scale, "skip_noise": skip_noise,
            "quality": quality, "tuners": tuner, "against": against, "data": data, "protocol": protocol,
            "images": images, "guidance": guidance, "control_guidance": control_guidance, "scheduler": scheduler,
            "seed": seed, "weights": weights, "clip": clip, "inception": inception, "scenes": scenes,
            "seconds": seconds, "seeds": seeds, "learning_rates": _rates(learning_rate), "keep": keep, "show": show,
            "plot": plot, "baseline": baseline, "tolerance": tolerance, "out": out, "overwrite": overwrite,
        })  # fmt: skip
        check(request, output)  # refuses bad options before the slow import of PyTorch
        if not (estimate or show):
            request = replace(request, device=device_here(device))
        from scedit_cli.jobs import bench as job

        result = job.bench(request, output, reporter=screen)
    if not result.is_first:
        return
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


def _next_free(path: Path) -> Path:
    """Return `path`, or the first of path-2, path-3, … that does not exist, if that exists."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
    return next(each for each in numbered if not each.exists()) if path.exists() else path


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
