"""Other people's measurements of training memory on cards, beside the estimate of the same settings.

`python -m scedit_cli.benchmark.published` prints the table of the benchmark's README; it takes some minutes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from scedit_cli.benchmark.architecture import architecture
from scedit_cli.benchmark.beside import Loop, held
from scedit_cli.benchmark.methods import Options
from scedit_cli.benchmark.report import as_markdown
from scedit_cli.training.fitting import CONTEXT

_MIB, _GB = 2**20, 10**9
_IN_LOOP = ("vae", "text")  # encoders that the program calls at each step


@dataclass(frozen=True)
class Published:
    """A measurement: its source and settings in words, the card's memory in bytes, and the settings to estimate.

    Attributes:
        extra: bytes that the program holds besides, which `held` does not know.
    """

    source: str
    settings: str
    measured: float
    method: str
    batch: int
    base: str = "sd15"
    resolution: int = 512
    dtype: str = "fp32"
    loop: Loop = Loop(_IN_LOOP)
    options: Options = Options()
    extra: int = 0

    def estimate(self) -> dict[str, int]:
        """Return the bytes by category, with the driver's context."""
        base = architecture(self.base)
        found = held(
            self.method, base, self.batch, self.resolution, self.dtype, self.loop, options=self.options
        )
        return found | {"context": CONTEXT, "extra": self.extra}


_SWIFT = "[ms-swift](https://swift2x-en.readthedocs.io/en/latest/GetStarted/SCEdit.html)"
_DIFFUSERS = "[diffusers](https://github.com/huggingface/diffusers/blob/main/examples/controlnet/README.md)"
_NEMO = "[NeMo](https://docs.nvidia.com/nemo-framework/user-guide/24.12/multimodalmodels/text2image/controlnet/perf.html)"
_PEFT = "[PEFT 0.3](https://github.com/huggingface/peft/blob/v0.3.0/README.md)"
_R64, _R16 = Options(lora_rank=64, lora_feed_forward=True), Options(lora_rank=16)
_OLD = Loop(_IN_LOOP, matrices=True)
_TEXT = 123_060_480  # parameters of SD1.5's text encoder, which PEFT's example trains too

TABLE = (
    Published(_SWIFT, "SCEdit, batch 1", 7556 * _MIB, "sc-plain", 1),
    Published(_SWIFT, "LoRA r=64 with feed-forward, batch 1", 8440 * _MIB, "lora", 1, options=_R64),
    Published(_SWIFT, "SCEdit, batch 10", 18634 * _MIB, "sc-plain", 10),
    Published(_SWIFT, "LoRA r=64 with feed-forward, batch 10", 26300 * _MIB, "lora", 10, options=_R64),
    Published(_SWIFT, "SCEdit, batch 30", 43350 * _MIB, "sc-plain", 30),
    Published(_SWIFT, "LoRA r=64 with feed-forward, batch 30", 69554 * _MIB, "lora", 30, options=_R64),
    Published(_DIFFUSERS, "ControlNet, batch 4", 38 * _GB, "controlnet", 4, loop=_OLD),
    Published(_DIFFUSERS, "ControlNet, batch 1", 20 * _GB, "controlnet", 1, loop=_OLD),
    Published(_NEMO, "ControlNet, batch 8, flash attention, AMP", 33 * _GB, "controlnet", 8, loop=Loop(_IN_LOOP, "fp16")),
    Published(_NEMO, "ControlNet, batch 32, flash attention, AMP", 66 * _GB, "controlnet", 32,
              loop=Loop(_IN_LOOP, "fp16")),
    Published(_NEMO, "ControlNet, batch 8, no flash attention, AMP", 76 * _GB, "controlnet", 8,
              loop=Loop(_IN_LOOP, "fp16", True)),
    Published(_PEFT, "DreamBooth, full, batch 1 + 1", 27.5 * _GB, "full", 2, loop=_OLD, extra=12 * _TEXT),
    Published(_PEFT, "DreamBooth, LoRA r=16, batch 1 + 1", 15.5 * _GB, "lora", 2, loop=_OLD, options=_R16),
    Published(_PEFT, "DreamBooth, LoRA r=16, checkpointing, batch 1 + 1", 8.12 * _GB, "lora-checkpoint", 2, loop=_OLD,
              options=_R16),
)  # fmt: skip


def row(each: Published) -> list[str]:
    """Return a row of the table: source, settings, measured, estimated, their ratio, and the estimate's parts."""
    found = each.estimate()
    total = sum(found.values())
    of_step = sum(found.get(name, 0) for name in ("weights", "gradients", "optimizer", "activations"))
    encoders = sum(found.get(name, 0) for name in _IN_LOOP) + found["extra"]
    figures = (each.measured, total, of_step, encoders, found["reserve"])
    shown = [f"{value / _MIB:,.0f}" for value in figures]
    return [f"{each.source}: {each.settings}", *shown[:2], f"{total / each.measured:.2f}", *shown[2:]]


HEADER = ("measured on a card", "MiB", "estimated", "ratio", "of it a step", "encoders", "allocator's reserve")

if __name__ == "__main__":
    sys.stdout.write(as_markdown(HEADER, []))
    for number in map(int, sys.argv[1:] or range(len(TABLE))):
        sys.stdout.write(as_markdown(row(TABLE[number]), []).partition("\n")[0] + "\n")
        sys.stdout.flush()
