"""The protocols of evaluation: which figure says how well images follow a kind of condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from scedit_cli.conditions.annotation_spec import AnnotationSpec
from scedit_cli.conditions.consistency import papers
from scedit_cli.conditions.consistency.measure import Figures, Measure
from scedit_cli.conditions.scoring import measured_by, measured_kinds
from scedit_cli.utils.errors import SceditError

if TYPE_CHECKING:
    import numpy as np

NAMES = ("scedit", "controlnet++")


@dataclass(frozen=True)
class Protocol:
    """A protocol of evaluation.

    Attributes:
        name: one of NAMES.
        figures: the name of each kind's figure; every measured kind has "consistency" where it is empty.
        measures: the measure of each kind, by the annotator's name; where it is empty, the annotator's own.
        less_is_better: the kinds whose figure is an error.
    """

    name: str
    figures: Mapping[str, str]
    measures: Mapping[str, Callable[[str], Measure]]
    less_is_better: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that the protocol measures."""
        return tuple(self.measures) or measured_kinds()

    def figure(self, kind: str) -> str:
        """Return the name of the kind's figure."""
        return self.figures.get(kind, "consistency")

    def check(self, kind: str) -> None:
        """Raise SceditError if the protocol has no measure for conditions of this kind."""
        if kind in self.kinds:
            return
        others = [name for name in NAMES if kind in find_protocol(name).kinds]
        hint = f"protocol {others[0]} measures it" if others else f"it measures {', '.join(self.kinds)}"
        raise SceditError(f"protocol {self.name} has no measure for {kind}", hint, "protocol")

    def measured(
        self,
        makers: Sequence[AnnotationSpec],
        images: Sequence[Image.Image],
        conditions: Sequence[Image.Image],
        device: str,
    ) -> list[Figures]:
        """Return the figures of each image with the condition and the spec at the same place, as `measured_by`."""
        choose = self.measures.get(makers[0].kind) if makers else None
        return measured_by(makers, images, conditions, device, choose)

    def values(self, kind: str, figures: Sequence[Figures]) -> np.ndarray:
        """Return (N, K) values of N images, from whose mean `summarised` computes the figure."""
        import numpy as np

        name = self.figure(kind)
        return np.array([each["counts"] if name == "mean_iou" else [each[name]] for each in figures], np.float64)

    def summarised(self, kind: str, means: np.ndarray) -> np.ndarray:
        """Return the figure (R,) of means (R, K) of `values`: a mean over images, or for classes the mean intersection
        over union of all their pixels."""
        if self.figure(kind) == "mean_iou":
            return papers.mean_iou(means.reshape(len(means), 3, -1))
        return means[:, 0]


_PAPERS = Protocol(
    "controlnet++",
    {"canny": "f1", "hed": "ms_ssim", "lineart": "ms_ssim", "depth": "rmse", "seg": "mean_iou"},
    {
        "canny": lambda annotator: papers.EXACT_EDGES,
        "hed": lambda annotator: papers.LINES,
        "lineart": lambda annotator: papers.LINES,
        "depth": lambda annotator: papers.LEVELS,
        "seg": papers.seg_measure,
    },
    ("depth",),
)


def find_protocol(name: str) -> Protocol:
    """Return the protocol of this name.

    Raises:
        SceditError: there is none.
    """
    if name not in NAMES:
        raise SceditError(f"`protocol` {name}: not known", f"choose one of {', '.join(NAMES)}", "protocol")
    return _PAPERS if name == _PAPERS.name else Protocol("scedit", {}, {})
