"""Training batches straight from WebDataset shards, so that the images need not fit on one disk."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate, islice

import numpy as np
import torch
from torch import Tensor

from scedit_cli.conditions.annotation_spec import AnnotationSpec
from scedit_cli.data.arrays import planes, stacked, unit
from scedit_cli.data.cache import PIXELS_AT_ONCE
from scedit_cli.data.hints import made_hint
from scedit_cli.data.importing import Cut, Rejected
from scedit_cli.data.loader import Batch
from scedit_cli.data.sampler import EndlessBatches, part_of
from scedit_cli.data.shard_dataset import ShardDataset
from scedit_cli.data.shard_schedule import ShardSchedule, Turn
from scedit_cli.data.shards import Sample, read_samples
from scedit_cli.models.base import Base
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.reporter import SILENT, Reporter

_LEAST = 16  # samples in a block, at least: a sample that cannot be used is replaced by another one of its block
_AHEAD = 2  # batches that are loaded in advance


@dataclass(frozen=True)
class Raw:
    """B images of one size as read from the shards: `pixels` uint8 (B, 3, H, W), the rest as in `Batch`."""

    indices: list[int]
    sizes: Tensor
    pixels: Tensor
    captions: list[str]
    hints: dict[str, Tensor]
    weights: Tensor

    def encoded(self, base: Base) -> Batch:
        """Return the input of a training step; `base` encodes images and captions now."""
        height, width = self.pixels.shape[-2:]
        parts = self.pixels.split(max(1, PIXELS_AT_ONCE // (height * width)))
        moments = [base.encode_images(part.float() / 255).cpu() for part in parts]
        text = {name: values.cpu() for name, values in base.encode_prompts(self.captions).items()}
        return Batch(self.indices, self.sizes, torch.cat(moments), text, self.hints, self.weights)


class Stream(EndlessBatches):
    """An endless sequence of batches, in place of a `StatefulSampler` and a cache.

    The shards are dealt to lanes, one lane for each shard but at most one for each place in a batch. A lane fills the
    same places of every batch. A process reads the lanes of its own places, so the batches are the same for any number
    of processes; where that number divides the lanes, each process reads only its own part of the shards. Each epoch
    shuffles the shards, and each lane shuffles its samples in blocks.

    A sample that cannot be used is replaced by another one of its block, and samples that a shard lacks by those of the
    next shard.

    Args:
        data: the shards.
        shuffle: the number of samples that are shuffled together, over all lanes; 0 keeps the order within shards.
        unusable: the share (0 to 1) of a block that may be unusable.
        share: (number, of how many): this process' places in a batch, as in `StatefulSampler`.
        specs: those of the hints that are made from the images.
        workers: the number of threads that read and decode.
        reporter: gets a note about each sample or shard that could not be used.
    """

    def __init__(
        self,
        data: ShardDataset,
        batch_size: int,
        seed: int = 0,
        *,
        shuffle: int = 1000,
        unusable: float = 0.5,
        share: tuple[int, int] = (0, 1),
        specs: Sequence[AnnotationSpec] = (),
        workers: int = 4,
        reporter: Reporter = SILENT,
    ) -> None:
        self.lanes = ShardSchedule(data.left, batch_size, seed)
        self.block, self.is_shuffled = max(shuffle // self.lanes.count, _LEAST), shuffle > 0
        order = f"{data.fingerprint}/{self.block if self.is_shuffled else 0}"
        super().__init__(sum(data.left), batch_size, seed, order)
        self.data, self.places = data, part_of(range(batch_size), *share)
        self.unusable, self.specs = unusable, tuple(spec.with_drawn_seed() for spec in specs)
        self._workers, self._reporter = workers, reporter
        self._faults: deque[str] = deque()  # sentences from the reading threads
        self.firsts = [0, *accumulate(data.counts)]

    def name_of(self, index: int) -> str:
        """Return the shard and key of the sample `index`, one of a batch's `indices`."""
        shard = bisect_right(self.firsts, index) - 1
        sample = next(islice(read_samples(self.data.places[shard]), index - self.firsts[shard], None))
        return f"{self.data.places[shard]}: {sample.key}"

    def batches(self) -> Iterator[Raw]:
        """Yield batches without end from `step` on; `step` counts yielded batches, not those loaded ahead."""
        ahead: deque[list[Future]] = deque()
        readers = [_Lane(self, lane) for lane in range(self.lanes.count)]
        mine = [(reader, part) for reader in readers if (part := reader.within(self.places))]
        with ExitStack() as stack:
            # Each lane stays with one thread, because its images must be read in order.
            threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(min(self._workers, len(mine)))]
            try:
                while True:
                    while len(ahead) <= _AHEAD:
                        step = self.step + len(ahead)
                        turns = [(threads[at % len(threads)], *each) for at, each in enumerate(mine)]
                        ahead.append([thread.submit(lane.pictures, step, part) for thread, lane, part in turns])
                    images = [image for each in ahead.popleft() for image in each.result()]
                    while self._faults:
                        self._reporter.note(self._faults.popleft())
                    self.step += 1
                    yield _together(images)
            finally:
                for future in (future for each in ahead for future in each):
                    future.cancel()

    def fault(self, sentence: str) -> None:
        """Queue a note for the reporter, from any thread."""
        self._faults.append(sentence)


@dataclass(frozen=True)
class _StreamedImage:
    index: int
    cut: Cut
    pixels: Tensor
    hints: dict[str, Tensor]


@dataclass(frozen=True)
class _Read:
    index: int
    shard: str
    sample: Sample


class _Lane:
    """One lane of a stream, which can be entered at any sample and is then read in order."""

    def __init__(self, stream: Stream, number: int) -> None:
        self._stream, self._data, self._number = stream, stream.data, number
        size, count = stream.batch_size, stream.lanes.count
        self._places = [place for place in range(size) if place * count // size == number]
        self._source: Iterator[_Read] = iter(())
        self._block: int | None = None
        self._here: list[_Read] = []
        self._next: list[_Read] = []
        self._unusable: set[int] = set()  # places in the current block
        self._reported: set[str] = set()

    def within(self, places: range) -> range:
        """Return which of the lane's images in a batch have one of `places`."""
        own = [at for at, place in enumerate(self._places) if place in places]
        return range(own[0], own[-1] + 1) if own else range(0)

    def pictures(self, step: int, part: range) -> list[_StreamedImage]:
        """Return the lane's images `part` of batch `step`."""
        return [self._picture(step * len(self._places) + at, step) for at in part]

    def _picture(self, index: int, step: int) -> _StreamedImage:
        number, place = divmod(index, self._stream.block)
        self._turn_to(number)
        turns = np.arange(len(self._here))
        if self._stream.is_shuffled:
            np.random.default_rng([self._stream.seed, self._number, number]).shuffle(turns)
        for at in np.roll(turns, -place).tolist():  # the sample itself first, then its possible replacements
            if at in self._unusable:
                continue
            read = self._here[at]
            made = self._data.cut(read.sample)
            if isinstance(made, Rejected):
                self._leave_out(at, f"{read.shard}: {read.sample.key}: {made.reason}")
                continue
            pixels = np.array(made.image)
            hints = {kind: unit(planes(np.array(image))) for kind, image in made.conditions.items()}
            for spec in self._stream.specs:
                hints[spec.kind] = made_hint(spec, f"{read.sample.key} {step}", pixels)
            return _StreamedImage(read.index, made, planes(pixels), hints)
        raise AssertionError("some are left, as `_leave_out` makes sure")

    def _leave_out(self, at: int, why: str) -> None:
        self._unusable.add(at)
        self._stream.fault(f"passed over: {why}")
        if len(self._unusable) > self._stream.unusable * len(self._here) or len(self._unusable) == len(self._here):
            raise SceditError(
                f"data.path: {len(self._unusable)} of {len(self._here)} samples cannot be used; the last: {why}",
                hint="scedit prepare makes shards of whole images; data.columns names what they hold, data.upscale "
                "takes small ones, data.unusable tells how many may be left out",
            )

    def _turn_to(self, number: int) -> None:
        """Load block `number` if it is not the current one, else read one sample of the next block in advance."""
        size = self._stream.block
        if self._block is None or number not in (self._block, self._block + 1):
            self._source, self._next = self._read(number * size), []
        if number != self._block:
            self._here = [*self._next, *islice(self._source, size - len(self._next))]
            self._block, self._next, self._unusable = number, [], set()
        elif len(self._next) < size:
            self._next.append(next(self._source))

    def _read(self, index: int) -> Iterator[_Read]:
        """Yield the lane's samples from `index` on."""
        epoch, turns = self._stream.lanes.find(self._number, index)
        while True:
            for turn in turns:
                yield from islice(self._from(turn.shard, epoch), turn.skip, self._data.left[turn.shard])
            epoch += 1
            turns = [Turn(shard, 0) for shard in self._stream.lanes.dealt(self._number, epoch)]

    def _from(self, shard: int, epoch: int) -> Iterator[_Read]:
        """Yield the samples of a shard, then those of the next shards, which replace the ones that it lacks."""
        order = self._stream.lanes.order(epoch)
        at, is_any = order.index(shard), True
        while is_any:
            is_any = False
            for number in (*order[at:], *order[:at]):
                place, first, held = self._data.places[number], self._stream.firsts[number], self._data.held[number]
                try:
                    for position, sample in enumerate(read_samples(place)):
                        if position >= held:
                            is_any = True
                            yield _Read(first + position, place, sample)
                    fewer = f"{place} holds fewer samples than sizes.json states"
                    self._report_once(place, f"{fewer}; others take their place")
                except SceditError as error:
                    self._report_once(place, f"{error.message}; others take its samples' place")
        raise SceditError("data.path: none of the shards can be read", hint="look at what was passed over")

    def _report_once(self, place: str, sentence: str) -> None:
        if place not in self._reported:
            self._reported.add(place)
            self._stream.fault(sentence)


def _together(images: Sequence[_StreamedImage]) -> Raw:
    kinds = images[0].hints
    return Raw(
        indices=[each.index for each in images],
        sizes=torch.tensor([(*each.cut.original[::-1], *each.cut.crop, *each.cut.fit.size[::-1])
                            for each in images]),
        pixels=stacked([each.pixels for each in images]),
        captions=[each.cut.text for each in images],
        hints={kind: stacked([each.hints[kind] for each in images]) for kind in kinds},
        weights=torch.tensor([each.cut.more["weight"] for each in images]),
    )  # fmt: skip
