"""The sample grids of a run: captions, conditions and seeds stay the same, so that only the tuner changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from scedit_cli import conditions
from scedit_cli.conditions.annotation_spec import AnnotationSpec
from scedit_cli.core.attach import Attachment
from scedit_cli.data.scenes import Example
from scedit_cli.inference.denoising import Guidance
from scedit_cli.inference.sampler import grid, sample, to_hints, to_images, to_tensor
from scedit_cli.models.base import Base
from scedit_cli.recipe import SamplesSection
from scedit_cli.utils.reporter import SILENT, Reporter


@dataclass
class SampleGrids:
    """A drawer of grids of `examples`, all of one size: condition | without the tuner | with it | reference."""

    base: Base
    examples: Sequence[Example]
    options: SamplesSection
    score: float | None = None  # the control score of the last grid, if it can be measured
    _without: list[Image.Image] | None = None
    _bounds: tuple[list[float], list[float]] | None = None  # consistencies without the tuner, and of the references

    def draw(self, edits: Attachment, reporter: Reporter = SILENT) -> Image.Image:
        """Return the grid with the one tuner of `edits` as it is now; `reporter` gets (denoising steps done, total)."""
        parts = 2 if self._without is None else 1
        if self._without is None:
            edits.scales = 0.0
            self._without = self._sample(edits, reporter.part(0, parts))
            edits.scales = 1.0
        with_ = self._sample(edits, reporter.part(parts - 1, parts))
        kinds = list(self.examples[0].conditions)
        rows = [
            [*shown.conditions.values(), without, tuned, shown.image]
            for shown, without, tuned in zip(self.examples, self._without, with_, strict=True)
        ]
        self.score = self._control_score(with_)
        scored = "" if self.score is None else f" (control score {self.score:z.2f})"
        return grid(rows, [*kinds, "without the tuner", f"with it{scored}", "reference"], self._prompts)

    def _control_score(self, images: Sequence[Image.Image]) -> float | None:
        kind = next(iter(self.examples[0].conditions), None)
        if not self.options.score or kind not in conditions.measured_kinds():
            return None
        annotator = conditions.scene_annotator(kind) if self.base.family == "scenes" else None
        usual = AnnotationSpec(kind, conditions.find(kind).annotator(annotator).name)
        makers = [shown.makers.get(kind, usual) for shown in self.examples]
        if any(maker.annotator.weights for maker in makers):
            return None
        wanted = [shown.conditions[kind] for shown in self.examples]

        def follows(made: Sequence[Image.Image]) -> list[float]:
            return [figures["consistency"] for figures in conditions.measured_by(makers, made, wanted)]

        if self._bounds is None:
            moments = [self.base.encode_images(to_tensor([shown.image])) for shown in self.examples]
            real = [to_images(self.base.decode(self.base.latents_from(each)))[0] for each in moments]
            self._bounds = follows(self._without), follows(real)
        return conditions.control_score(follows(images), *self._bounds)

    @property
    def _prompts(self) -> list[str]:
        given = self.options.prompts or [shown.text for shown in self.examples]
        return [given[number % len(given)] for number in range(len(self.examples))]

    def _sample(self, edits: Attachment, reporter: Reporter) -> list[Image.Image]:
        """Generate an image for each example."""
        width, height = self.examples[0].image.size
        return sample(
            self.base,
            self._prompts,
            attachment=edits,
            hints={
                kind: to_hints(kind, [shown.conditions[kind] for shown in self.examples])
                for kind in self.examples[0].conditions
            },
            seeds=[self.options.seed + number for number in range(len(self.examples))],
            steps=self.options.steps,
            guidance=Guidance(self.options.guidance, control=self.options.control_guidance),
            height=height,
            width=width,
            reporter=reporter,
        )
