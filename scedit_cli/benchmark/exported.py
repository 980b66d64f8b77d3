"""The step of an exported U-Net with a CSC-Tuner beside that of the same U-Net alone, in onnxruntime.

`python -m scedit_cli.benchmark.exported` writes both graphs of random weights, runs them in turns, and prints the
processor seconds of a step and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

_WARM_UP = 1


@dataclass(frozen=True)
class StepPairs:
    """Processor seconds of a step, in the order they were taken: the U-Net alone, then the one with a tuner."""

    bare: tuple[float, ...]
    tuned: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        return [tuned / bare for tuned, bare in zip(self.tuned, self.bare, strict=True)]

    def __str__(self) -> str:
        low, middle, high = statistics.quantiles(self.ratios, n=4)
        alone, with_one = statistics.median(self.bare), statistics.median(self.tuned)
        return (
            f"a step of the exported U-Net: {alone:.3f} s alone, {with_one:.3f} s with a CSC-Tuner\n"
            f"ratio {middle:.3f} (quartiles {low:.3f} to {high:.3f}; of the fastest steps "
            f"{min(self.tuned) / min(self.bare):.3f})\n"
            f"medians of {len(self.bare)} pairs taken in turns, processor seconds on one thread"
        )


def measure(base: str = "sd15", resolution: int = 256, batch: int = 1, pairs: int = 7, width: float = 1.0) -> StepPairs:
    """Export a U-Net of random weights without and with a CSC-Tuner to ONNX, and time their steps in turns.

    Args:
        base: the U-Net's architecture: "sd15", "sd21" or "sdxl".
        resolution: the side of the image in pixels.
        batch: the images of a step.
        pairs: how often each graph is timed, after one step that is not.
        width: the share of the channels of U-Net and tuner, for machines without memory for all.
    """
    import torch

    from scedit_cli.benchmark.timing import timed

    with tempfile.TemporaryDirectory(prefix="scedit-exported-") as folder:
        files, inputs = _written(base, resolution, batch, width, Path(folder))
        sessions = [_session(file) for file in files]
        times: list[list[float]] = [[] for _ in sessions]
        for _ in range(_WARM_UP + pairs):
            for session, taken in zip(sessions, times, strict=True):
                given = {each.name: inputs[each.name] for each in session.get_inputs()}
                taken.append(timed(partial(session.run, None, given), torch.device("cpu")))
    return StepPairs(*(tuple(each[_WARM_UP:]) for each in times))


def _written(
    base: str, resolution: int, batch: int, width: float, folder: Path
) -> tuple[list[Path], dict[str, Any]]:
    """Write the two graphs; return their files, and the inputs of a step."""
    import torch

    from scedit_cli.benchmark.architecture import architecture
    from scedit_cli.benchmark.step import random_batch
    from scedit_cli.core.tuners import CSCTuner
    from scedit_cli.exporting.graph import EditedUNet
    from scedit_cli.exporting.graph_files import write_graph

    shape = architecture(base)
    channels = [int(each * width) for each in shape.config["block_out_channels"]]
    shape = replace(shape, config=shape.config | {"block_out_channels": channels})
    unet = shape.unet(torch.float32, torch.device("cpu"))
    tuner = CSCTuner.for_unet(unet, "canny", hint_channels=int(256 * width), hint_width=width)
    with torch.no_grad():
        for parameter in tuner.parameters():  # new maps are zero, and a graph may leave out what is
            parameter.normal_(std=0.02)
    text = {"encoder_hidden_states": (torch.float32, (shape.tokens, shape.config["cross_attention_dim"]))}
    if shape.pooled:
        text["text_embeds"] = torch.float32, (shape.pooled,)
    files = []
    for name, tuners in (("bare", []), ("tuned", [tuner])):
        edited = EditedUNet(unet, text, tuners).eval().requires_grad_(False)
        files.append(folder / name / "unet.onnx")
        files[-1].parent.mkdir()
        write_graph(edited, "onnx", files[-1], {})
        edited.release()
    given, _ = random_batch(shape, batch, resolution, torch.float32, "cpu")
    inputs = {
        "sample": given.latents,
        "timestep": given.timesteps.float(),
        "encoder_hidden_states": given.text["encoder_hidden_states"],
        **given.text.get("added_cond_kwargs", {}),
        "hint_canny": given.hint,
        "scale_canny": torch.tensor(1.0),
    }
    return files, {name: each.float().numpy() for name, each in inputs.items()}


def _session(file: Path) -> Any:
    """Return onnxruntime's session on one thread: threads that wait for each other take processor time too."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser("python -m scedit_cli.benchmark.exported", description=__doc__.partition("\n")[0])
    parser.add_argument("--base", default="sd15", choices=["sd15", "sd21", "sdxl"])
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--width", type=float, default=1.0, help="share of the channels of U-Net and tuner")
    sys.stdout.write(f"{measure(**vars(parser.parse_args(arguments)))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
