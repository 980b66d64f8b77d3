"""The check that a run's losses, gradients and weights are finite numbers."""

from __future__ import annotations

import math

import torch

from scedit_cli.data.dataset import Dataset
from scedit_cli.training.trainer import Step, Trainer
from scedit_cli.utils.distributed import Processes
from scedit_cli.utils.errors import WorkFailed

_NAMED = 8  # images named in a message


class LossCheck:
    """The check of the steps that `add` collects, which waits for the device only in `look`.

    Attributes:
        last: the mean loss of the last step that was checked; None where fp16 skipped it.
        skipped, skipped_in_a_row: the number of steps that fp16 skipped, in all and since the last that it did not.
        saved: the step of the last checkpoint, for messages.
    """

    def __init__(self, trainer: Trainer, dataset: Dataset, processes: Processes, max_skipped: int) -> None:
        self._trainer, self._dataset, self._processes, self._max_skipped = trainer, dataset, processes, max_skipped
        self.last: float | None = None
        self.skipped = self.skipped_in_a_row = self.saved = 0
        self._unseen: list[Step] = []

    def add(self, step: Step) -> None:
        """Take a finished step, to be checked later.

        Raises:
            WorkFailed: more steps in a row were skipped than may be.
        """
        self._unseen.append(step)
        self.skipped += step.is_skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if step.is_skipped else 0
        if self.skipped_in_a_row > self._max_skipped:
            raise self._lost(step, f"{self.skipped_in_a_row} steps in a row were skipped, the last on", step.indices)

    @property
    def are_fine(self) -> bool:
        """Whether this process's losses of the steps not yet checked are finite."""
        return all(step.is_skipped or step.losses.isfinite().all() for step in self._unseen)

    def look(self) -> None:
        """Check the losses and gradients of all processes since the last check; this waits for the device.

        Raises:
            WorkFailed: a loss or gradient is NaN or infinite in a step that fp16's scaling did not skip.
        """
        if not self._unseen:
            return
        every = self._processes.sum(torch.stack([step.losses for step in self._unseen])).cpu()
        norms = [step.gradient_norm for step in self._unseen if step.gradient_norm is not None]
        norms = torch.stack(norms).tolist() if norms else [0.0] * len(every)
        for step, losses, norm in zip(self._unseen, every, norms, strict=True):
            is_finite = losses.isfinite()
            if is_finite.all():
                self.last = losses.mean().item()
            elif not step.is_skipped:
                own = is_finite[step.places.start : step.places.stop]
                bad = [index for index, is_fine in zip(step.indices, own, strict=True) if not is_fine]
                raise self._lost(step, "the loss is not a number (NaN or Inf), on", bad)
            else:
                self.last = None
            if not math.isfinite(norm) and not step.is_skipped:
                raise self._lost(step, "the gradient is not a number (NaN or Inf), on", step.indices)
        self._unseen.clear()

    def check_weights(self) -> None:
        """Check that all weights are finite: gradients that are not clipped are not checked earlier.

        Raises:
            WorkFailed: a weight is NaN or infinite.
        """
        if not self._trainer.is_finite:
            raise WorkFailed(
                f"step {self._trainer.step}: the tuner's weights are not numbers (NaN or Inf)", hint=self._remedy
            )

    def _lost(self, step: Step, what: str, indices: list[int]) -> WorkFailed:
        stream = self._trainer.stream
        of = stream.name_of if stream else lambda index: self._dataset.items[index].image.name
        names = [of(index) for index in indices[:_NAMED]]
        more = f" and {len(indices) - _NAMED} more" if len(indices) > _NAMED else ""
        where = ", ".join(names) + more if names else "images of another process"
        return WorkFailed(f"step {step.number}: {what} {where}", hint=f"look at these images, {self._remedy}")

    @property
    def _remedy(self) -> str:
        further = f", and continue from step {self.saved} by `resume`" if self.saved else ""
        return f"lower train.learning_rate or take train.precision = fp32{further}"
