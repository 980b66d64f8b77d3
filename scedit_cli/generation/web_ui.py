"""The page in the browser: choose tuners, drop condition images and photographs, and see them beside the result."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from scedit_cli.generation.config import GenerationConfig, Overrides, Prompt
from scedit_cli.inference.config import Control
from scedit_cli.inference.controls import called, check_base, load_placed
from scedit_cli.models.base import Base
from scedit_cli.utils.errors import SceditError, not_installed
from scedit_cli.utils.io import sha256, write_new
from scedit_cli.utils.markdown import plain
from scedit_cli.utils.reporter import Reporter
from scedit_cli.utils.specs import TunerSpec

if TYPE_CHECKING:
    import gradio

# Draws the image of a configuration and returns its file and its conditions.
Draw = Callable[[GenerationConfig, Reporter], tuple[Path, dict[str, Image.Image]]]
_HEIGHT = 440  # of the images side by side, in pixels
_STYLE = "#result img { width: 100%; height: 100%; object-fit: contain }"
_INPUTS = "inputs"  # folder beside the images that keeps dropped files, for the command line


@dataclass(frozen=True)
class Slot:
    """A tuner that the page offers, with the name of its file and the kind of condition that it takes (None for an
    SC-Tuner); `scale` is the initial value of its slider."""

    file: str
    name: str
    condition: str | None
    bundled: bool
    scale: float = 1.0


def slots_for(tuners: Sequence[TunerSpec], base: Base, any_base: bool = False) -> list[Slot]:
    """Return the slots of these tuner files, with bundles taken apart; `any_base` as for `check_base`.

    Raises:
        SceditError: a file is no tuner for this base.
    """
    slots = []
    for spec in tuners:
        for placed in load_placed(spec):
            check_base(placed, base, any_base=any_base)
            slots.append(Slot(str(spec.source), placed.name, placed.tuner.condition, placed.bundled, placed.factor))
    return slots


def config_of(
    given: GenerationConfig,
    slots: Sequence[Slot],
    values: Sequence[Any],
    chosen: Sequence[str],
    out: Path,
    prompt: str = "",
    **sampler: Any,
) -> GenerationConfig:
    """Return the configuration that the page's elements make.

    Args:
        given: the configuration with the settings of every image.
        slots: the tuners that the page offers.
        values: the values of each slot's elements: dropped file or None, whether it is a photograph, scale, start, end.
        chosen: the tuner files that are ticked.
        out: the folder of the images; dropped files are kept in its folder "inputs".
        sampler: the settings of the sampler that the page has.
    """
    controls, scales, tuners = [], {}, {file: TunerSpec(file) for file in chosen}
    for slot, (file, is_photo, scale, start, end) in zip(slots, values, strict=True):
        if slot.file not in chosen:
            continue
        if slot.condition is None:
            if scale != 1 and slot.bundled:
                scales[slot.name] = scale
            elif scale != 1:
                tuners[slot.file] = TunerSpec(slot.file, scale)
        elif file is not None:
            source = {"photo" if is_photo else "image": _kept(Path(file), out)}
            controls.append(Control(slot.condition, **source, scale=scale, start=start, end=end))
    return replace(
        given,
        prompts=[Prompt(prompt)],
        tuners=list(tuners.values()),
        controls=controls,
        overrides=Overrides(scales, {}, given.overrides.masks),
        sampler=replace(given.sampler, **sampler),
    )


def page(
    given: GenerationConfig,
    base: Base,
    slots: Sequence[Slot],
    out: Path,
    draw: Draw,
    command_of: Callable[[GenerationConfig], str] = lambda config: "",
) -> gradio.Blocks:
    """Return the page, not served yet.

    Args:
        command_of: returns the command that makes the image of a configuration, to be shown beside it.

    Raises:
        SceditError: gradio is not installed.
    """
    gr = _gradio()
    files = list(dict.fromkeys(slot.file for slot in slots))
    titles = [called(file) for file in files]
    names = [(file if titles.count(called(file)) > 1 else called(file), file) for file in files]
    elements: list[Any] = []
    with gr.Blocks(title="scedit") as blocks:
        gr.Markdown(f"# scedit\nbase **{plain(base.name)}**")
        with gr.Row():
            with gr.Column(scale=2):
                prompt = gr.Textbox(label="Prompt", lines=2, elem_id="prompt")
                negative = gr.Textbox(label="Negative prompt", elem_id="negative")
                chosen = gr.CheckboxGroup(names, label="Tuners", elem_id="tuners", visible=bool(files))
                groups = []
                for title, file in names:
                    with gr.Group(visible=False) as group:
                        gr.Markdown(f"### &nbsp; {plain(title)}")
                        for number, slot in enumerate(slots):
                            if slot.file == file:
                                elements += _elements(gr, slot, number)
                    groups.append(group)
                with gr.Row():
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed")
                    taken = given.sampler.steps or base.defaults.steps
                    steps = gr.Slider(1, 100, taken, step=1, label="Steps", elem_id="steps")
                    guided = given.sampler.guided(base.defaults.guidance).scale
                    guidance = gr.Slider(0, 20, guided, label="Guidance", elem_id="guidance")
                button = gr.Button("Generate", variant="primary", elem_id="generate")
            with gr.Column(scale=3):
                with gr.Row():
                    shown = gr.Gallery(
                        label="Conditions", columns=1, object_fit="contain", height=_HEIGHT, elem_id="conditions"
                    )
                    result = gr.Image(
                        label="Result", format="png", interactive=False, height=_HEIGHT, elem_id="result"
                    )
                command = gr.Code(
                    label="The same from the command line", language="shell", wrap_lines=True, elem_id="command"
                )
        chosen.change(
            lambda ticked: [gr.update(visible=file in ticked) for file in files], chosen, groups, show_progress="hidden"
        )

        def generate(
            prompt: str, negative: str, ticked: list[str], seed: float, steps: float, guidance: float, *values: Any,
            progress: gradio.Progress = gr.Progress(),
        ) -> tuple[list[tuple[Image.Image, str]], str, str]:  # fmt: skip
            sampler = {"negative": negative, "steps": int(steps), "guidance": float(guidance)}
            taken = [values[at : at + 5] for at in range(0, len(values), 5)]
            seeded = replace(given, seeds=[int(seed)])
            try:
                config = config_of(seeded, slots, taken, ticked, out, prompt, **sampler)
                path, conditions = draw(config, _PageProgress(progress))
            except SceditError as error:
                raise gr.Error(html.escape(str(error)), print_exception=False) from error  # shown as HTML
            return [(image, kind) for kind, image in conditions.items()], str(path), command_of(config)

        inputs = [prompt, negative, chosen, seed, steps, guidance, *elements]
        button.click(generate, inputs, [shown, result, command])
    return blocks


class _PageProgress(Reporter):
    """A reporter that shows its progress on the page."""

    def __init__(self, shown: gradio.Progress) -> None:
        self._shown = shown

    def progress(self, step: int, total: int, *_: object) -> None:
        self._shown((step, total), unit="steps")


def open_page(blocks: gradio.Blocks, host: str, port: int | None, out: Path) -> str:
    """Serve the page in the background and return its address; `blocks.close()` ends it.

    Raises:
        SceditError: the port is taken, or the host is no address of this machine.
    """
    gr = _gradio()
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            allowed_paths=[str(out.absolute())],
            theme=theme,  # gradio's default theme loads its fonts from the network
            css=_STYLE,
        )
    except (OSError, ValueError) as error:
        raise SceditError(f"`host={host}` `port={port}`: {error}", "leave `port` out for a free one") from error
    return address


def _elements(gr: Any, slot: Slot, number: int) -> list[Any]:
    """Return a slot's elements: the dropped file, whether it is a photograph, scale, start and end."""
    takes = slot.condition is not None
    with gr.Row(visible=takes):
        file = gr.Image(
            label=slot.condition or slot.name, type="filepath", image_mode=None, sources=["upload", "clipboard"],
            height=180, elem_id=f"file-{number}",
        )  # fmt: skip
        with gr.Column():
            photo = gr.Checkbox(label=f"a photo: make its {slot.condition} first", elem_id=f"photo-{number}")
            start = gr.Slider(0, 1, 0, label="from (share of the steps)", elem_id=f"start-{number}")
            end = gr.Slider(0, 1, 1, label="to", elem_id=f"end-{number}")
    least, most = min(-2, slot.scale), max(3, slot.scale)
    scale = gr.Slider(least, most, slot.scale, step=0.05, label=f"{slot.name}: scale", elem_id=f"scale-{number}")
    return [file, photo, scale, start, end]


def _kept(file: Path, out: Path) -> Path:
    """Copy a dropped file to a lasting name in `out`, since the browser's copy does not last; return the copy."""
    kept = out / _INPUTS / f"{file.stem}-{sha256(file)[:8]}{file.suffix}"
    write_new(kept, file.read_bytes())
    return kept


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise not_installed("the page", "gradio", "ui") from error
    return gradio
