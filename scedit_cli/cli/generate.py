"""The command `scedit generate`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scedit_cli.cli.options import Debug, Device, Json, Overwrite, Quiet, Tuners, screen_for
from scedit_cli.utils.devices import device_here
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.names import EMBEDDED
from scedit_cli.utils.quick_start import quick_imports

if TYPE_CHECKING:
    from scedit_cli.generation.config import GenerationConfig

_PROMPTS, _STEERING, _SAMPLER = "What to draw", "What steers it", "The sampler"
_NOT_ON_THE_PAGE = {  # parameter -> option
    "from_file": "--from", "grid": "--grid", "score": "--score", "name": "--name", "overwrite": "--overwrite",
    "prompts": "--prompt", "prompts_file": "--prompts", "negative": "--negative", "seed": "--seed", "num": "--num",
    "conds": "--cond", "conds_from": "--cond-from", "params": "--param", "scales": "--scale", "sweeps": "--sweep",
    "weights": "--weights", "unet": "--unet",
}  # fmt: skip
_START, _VIDEO, _OUTPUT = "An image to start from", "Videos", "Output"
_MEMORY, _PAGE = "Memory and speed", "A page in the browser"


def generate(
    prompt: Annotated[
        list[str], typer.Option("--prompt", "-p", help="Text of an image; repeatable.", rich_help_panel=_PROMPTS)
    ] = [],
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", help="File of prompts: one per line, .jsonl or .csv.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    negative: Annotated[
        str | None, typer.Option(help="Negative prompt: what the image should not show.", rich_help_panel=_PROMPTS)
    ] = None,
    weighted: Annotated[
        bool,
        typer.Option("--weighted", help="Read prompts of any length with weights: (red)1.3.", rich_help_panel=_PROMPTS),
    ] = False,
    seed: Annotated[
        str | None,
        typer.Option(metavar="N|N,N|N-N", help="Seeds: 7, 1,2,3 or 1-8; 0 by default.", rich_help_panel=_PROMPTS),
    ] = None,
    num: Annotated[
        int | None,
        typer.Option(
            "--num", "-n", min=1, help="Images per prompt, with seeds counting from --seed; 1 by default.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    cond: Annotated[
        list[str],
        typer.Option(
            "--cond", metavar="[KIND=]FILE[:SCALE[:START-END]]",
            help="Condition image, such as canny=edges.png:0.8:0-0.6; repeatable.", rich_help_panel=_STEERING,
        ),
    ] = [],
    cond_from: Annotated[
        list[str],
        typer.Option(
            "--cond-from", metavar="KIND=PHOTO[:SCALE[:START-END]]",
            help="Photograph to make a condition image of, such as canny=photo.png; repeatable.",
            rich_help_panel=_STEERING,
        ),
    ] = [],
    param: Annotated[
        list[str],
        typer.Option(
            "--param", metavar="[KIND.]NAME=VALUE", help="Annotator setting, such as canny.low=50; repeatable.",
            rich_help_panel=_STEERING,
        ),
    ] = [],
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder with local copies of annotators' weights.", rich_help_panel=_STEERING
        ),
    ] = None,
    tuner: Tuners = [],
    mask: Annotated[
        list[str],
        typer.Option(
            "--mask", metavar="NAME=FILE",
            help="Mask, such as canny=left.png, white where that condition or SC-Tuner acts; repeatable.",
            rich_help_panel=_STEERING,
        ),
    ] = [],
    scale: Annotated[
        list[str],
        typer.Option(
            "--scale", metavar="NAME=SCALE", help="Scale of a condition or SC-Tuner, such as canny=0.6; repeatable.",
            rich_help_panel=_STEERING,
        ),
    ] = [],
    sweep: Annotated[
        list[str],
        typer.Option(
            "--sweep", metavar="NAME=SCALE,SCALE", help="Make an image for every scale, such as canny=0,0.5,1; "
            "repeatable.", rich_help_panel=_STEERING,
        ),
    ] = [],
    resize: Annotated[
        str | None,
        typer.Option(
            metavar="crop|fit|stretch", help="How images of another size are fitted; crop by default.",
            rich_help_panel=_STEERING,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", help='"scenes" (embedded, the default), a diffusers folder, hub id\\[@revision] or file.',
            rich_help_panel=_SAMPLER,
        ),
    ] = None,
    any_base: Annotated[
        bool,
        typer.Option("--any-base", help="Allow tuners of other bases that have the same skips.",
                     rich_help_panel=_SAMPLER),
    ] = False,
    prediction: Annotated[
        str | None,
        typer.Option(
            metavar="epsilon|v_prediction", help="What the base predicts; by default as its files say.",
            rich_help_panel=_SAMPLER,
        ),
    ] = None,
    unet: Annotated[
        Path | None,
        typer.Option(
            "--unet", metavar="DIR", help="U-Net with tuners that merge exported, to run in the base's place.",
            rich_help_panel=_SAMPLER,
        ),
    ] = None,
    vae: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Other autoencoder: a folder, hub id or file.", rich_help_panel=_SAMPLER),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Sampler steps; by default the base's.", rich_help_panel=_SAMPLER)
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            min=0, help="Classifier-free guidance; 1 or less is none; by default the base's.", rich_help_panel=_SAMPLER
        ),
    ] = None,
    control_guidance: Annotated[
        float | None,
        typer.Option(
            min=1, help="Guidance of the condition images, up to that of the prompt; 1, the default, is none.",
            rich_help_panel=_SAMPLER,
        ),
    ] = None,
    guidance_rescale: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of guidance's excess contrast to remove, against overexposure; 0 by default.",
            rich_help_panel=_SAMPLER,
        ),
    ] = None,
    guidance_span: Annotated[
        str | None,
        typer.Option(
            metavar="START-END", help="Share of the steps that are guided, such as 0.2-0.8; 0-1 by default.",
            rich_help_panel=_SAMPLER,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]",
            help="Sampler as diffusers, A1111 or ComfyUI name it, such as euler; by default the base's.",
            rich_help_panel=_SAMPLER,
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            min=8, help="In pixels; by default that of --image, the first --cond or the base.", rich_help_panel=_SAMPLER
        ),
    ] = None,
    height: Annotated[
        int | None, typer.Option(min=8, help="In pixels; by default as for --width.", rich_help_panel=_SAMPLER)
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Image to start from.", rich_help_panel=_START)] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="Share of the steps that redraw --image, above 0, at most 1; 0.6 by default, with a mask 1.",
            rich_help_panel=_START,
        ),
    ] = None,
    inpaint: Annotated[
        Path | None,
        typer.Option(metavar="MASK", help="Mask, white where --image is drawn again.", rich_help_panel=_START),
    ] = None,
    outpaint: Annotated[
        str | None,
        typer.Option(
            metavar="PIXELS|L,T,R,B", help="Margins to draw around --image, such as 64.", rich_help_panel=_START
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Make videos of so many frames, such as 16, with a base for videos; --cond then takes a folder of "
            "frames, a GIF or a video.",
            rich_help_panel=_VIDEO,
        ),
    ] = None,
    fps: Annotated[
        int | None,
        typer.Option(
            min=1, max=100, help="Frames per second of a video; by default the base's, 7 or 8.", rich_help_panel=_VIDEO
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Image file (.png, .jpg, .webp or .tif) or folder; by default pictures.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help='File names in the folder, such as "{prompt}-{seed}"; numbers by default.', rich_help_panel=_OUTPUT
        ),
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="Also write one labelled grid of all images.", rich_help_panel=_OUTPUT)
    ] = False,
    score: Annotated[
        bool,
        typer.Option("--score", help="Measure how well images follow their conditions.", rich_help_panel=_OUTPUT),
    ] = False,
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="IMAGE", help="Make this generated image again, with other options changed.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    overwrite: Overwrite = False,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Images made at once; 8 by default.", rich_help_panel=_MEMORY)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="fp32|bf16|fp16", help="Precision; fp32 on a CPU and for scenes, else bf16.",
            rich_help_panel=_MEMORY,
        ),
    ] = None,
    device: Device = None,
    vae_slicing: Annotated[
        bool, typer.Option("--vae-slicing", help="Decode images one at a time.", rich_help_panel=_MEMORY)
    ] = False,
    vae_tiling: Annotated[
        bool, typer.Option("--vae-tiling", help="Decode images tile by tile.", rich_help_panel=_MEMORY)
    ] = False,
    offload: Annotated[
        str | None,
        typer.Option(
            "--offload",
            metavar="models|encoder",
            help="What stays on the CPU while it does not run: whole models, or the U-Net's encoder block by block.",
            rich_help_panel=_MEMORY,
        ),
    ] = None,
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the U-Net.", rich_help_panel=_MEMORY)] = False,
    reuse: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N",
            help="Run the U-Net's deep layers at every N-th step only, such as 3 for half the time; 1 by default.",
            rich_help_panel=_MEMORY,
        ),
    ] = None,
    ui: Annotated[
        bool, typer.Option("--ui", help="Serve a page in the browser instead.", rich_help_panel=_PAGE)
    ] = False,
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to serve at: 127.0.0.1 (the default) for this machine alone, 0.0.0.0 for all.",
            rich_help_panel=_PAGE,
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; by default a free one.", rich_help_panel=_PAGE)
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Generate images from prompts, condition images and tuners.

    Without --tuner, the embedded base's shipped tuner of the condition's kind is used.

    \b
    Examples:
      scedit generate --cond scenes/conditions/depth/000000.png --out depth.png
      scedit generate --cond canny=edges.png --prompt "a green cone on a gray floor" --num 4 --grid
      scedit generate --cond-from canny=photo.png --cond color=palette.png:0.6 --mask canny=left.png --score
      scedit generate --cond canny=edges.png --sweep canny=0,0.5,1 --grid
      scedit generate --image room.png --inpaint mask.png --prompt "a red cube"
      scedit generate --from pictures/0001.png --seed 7
      scedit generate --unet canny-unet --cond canny=edges.png
      scedit generate --base animatediff --frames 16 --cond depth=frames/ --tuner depth.safetensors --out clip.webp
      scedit generate --ui
    """
    options = dict(
        prompts=prompt, prompts_file=prompts, negative=negative, seed=seed, num=num, conds=cond, conds_from=cond_from,
        params=param, weights=weights, masks=mask, tuners=tuner, scales=scale, sweeps=sweep, base=base, vae=vae,
        prediction=prediction, unet=unet, any_base=any_base, dtype=dtype, steps=steps, guidance=guidance,
        control_guidance=control_guidance, guidance_rescale=guidance_rescale, guidance_span=guidance_span,
        scheduler=scheduler, width=width, height=height, resize=resize, image=image, strength=strength, inpaint=inpaint,
        outpaint=outpaint, weighted=weighted, reuse=reuse, frames=frames, fps=fps, vae_slicing=vae_slicing,
        vae_tiling=vae_tiling, offload=offload, compile=compile_, batch_size=batch, from_file=from_file, out=out,
        name=name, grid=grid, score=score, overwrite=overwrite,
    )  # fmt: skip
    with screen_for(json_, quiet, debug) as screen:
        from scedit_cli.cli.generate_request import command_line, generation_config, given_of
        from scedit_cli.jobs.checks import generate as checks

        options["device"] = device_here(device)
        if ui:
            if unused := [option for name, option in _NOT_ON_THE_PAGE.items() if name in given_of(options)]:
                raise SceditError(f"{unused[0]} has no effect on the page", hint="leave it out, or leave out --ui")
            config = generation_config(options)
            checks.check_page(config)  # refuses bad options before the slow import of PyTorch
            from scedit_cli.jobs import generate as job

            command_of = partial(command_line, options, out=config.out.path)
            job.serve(config, host=host or "127.0.0.1", port=port, command_of=command_of, reporter=screen)
            return
        if given := [option for option, value in {"--host": host, "--port": port}.items() if value is not None]:
            raise SceditError(f"{given[0]} is of the page, and none is served", hint="leave it out, or add --ui")
        config = generation_config(options)
        checks.check(config)  # refuses bad options before the slow import of PyTorch
        with quick_imports(*_unused(config)):
            from scedit_cli.jobs import generate as job
            from scedit_cli.models.loading import import_libraries

            import_libraries()
        result = job.generate(**vars(config), reporter=screen)
    screen.result(result.document(), result.summary(), verbatim=True)


def _unused(config: GenerationConfig) -> list[str]:
    """Return the optional packages of diffusers and transformers that these images have no use for, and others that
    those libraries import where they are installed and that need one of them."""
    unused = ["bitsandbytes", "onnxruntime", "peft", "torchao"]
    if not (config.out.score or any(control.photo is not None for control in config.controls)):
        unused += ["torchvision", "timm"]  # of annotators
        if not config.sampler.scheduler and config.base.model == EMBEDDED:
            unused += ["scipy", "sklearn", "librosa"]  # of some samplers
    return unused
