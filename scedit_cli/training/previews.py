"""The picture grids of a run: the same captions, conditions and seeds every time, so that only the tuner changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from scedit_cli.base import Base
from scedit_cli.core.attach import Attachment
from scedit_cli.data.rendered import Example
from scedit_cli.recipe import SamplesSection
from scedit_cli.sampling import grid, sample, to_hints
from scedit_cli.training.material import OnStep, part_of


@dataclass
class Previews:
    """Draws a grid of `examples`: condition | without the tuner | with it | reference."""

    base: Base
    examples: Sequence[Example]
    options: SamplesSection
    _without: list[Image.Image] | None = None

    def draw(self, edits: Attachment, on_step: OnStep | None = None) -> Image.Image:
        """The grid with the one tuner of `edits` as it is now; `on_step` is called with (denoising steps, of how
        many)."""
        parts = 2 if self._without is None else 1
        if self._without is None:
            edits.scales = 0.0
            self._without = self._sample(edits, part_of(on_step, 0, parts))
            edits.scales = 1.0
        with_ = self._sample(edits, part_of(on_step, parts - 1, parts))
        kinds = list(self.examples[0].conditions)
        rows = [
            [*shown.conditions.values(), without, tuned, shown.image]
            for shown, without, tuned in zip(self.examples, self._without, with_, strict=True)
        ]
        return grid(rows, [*kinds, "without the tuner", "with it", "reference"], self._prompts)

    @property
    def _prompts(self) -> list[str]:
        given = self.options.prompts or [shown.text for shown in self.examples]
        return [given[number % len(given)] for number in range(len(self.examples))]

    def _sample(self, edits: Attachment, on_step: OnStep | None) -> list[Image.Image]:
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
            guidance=self.options.guidance,
            height=height,
            width=width,
            on_step=on_step,
        )
