"""The choice of annotators, and how they run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scedit_cli.utils.fields import check_number, check_switches


@dataclass(frozen=True)
class AnnotatorConfig:
    """How annotators are chosen and run.

    Attributes:
        annotator: the annotator of the kinds that have it; by default each kind's first.
        seed: the seed of settings that are drawn for each image.
        weights: a folder with local copies of the annotators' weights.
        accept_license: whether to accept, permanently, licences of weights that forbid commercial use.
        device: PyTorch's name of the device for annotators with weights; by default the accelerator, if any.
        processes: the number of processes on the CPU, at most 8; by default one per processor.
        batch_size: images per batch on an accelerator.
    """

    annotator: str | None = None
    seed: int = 0
    weights: str | Path | None = None
    accept_license: bool = False
    device: str | None = None
    processes: int | None = None
    batch_size: int = 8

    def check(self, field: str = "config") -> None:
        """Raise SceditError for an invalid setting; `field` is the configuration's own name."""
        check_number(self.seed, f"{field}.seed", 0, whole=True)
        check_switches(self, field, ("accept_license",))
        for name in ("processes", "batch_size"):
            if (value := getattr(self, name)) is not None:
                check_number(value, f"{field}.{name}", 1, whole=True)
