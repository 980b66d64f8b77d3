"""The report of `prepare`: counts, and the names of the files that a person should check."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scedit_cli.utils.errors import SceditError

if TYPE_CHECKING:
    from scedit_cli.data.sources import Source

_NAMED = 5  # files in a sentence


@dataclass
class Report:
    """The counts and faults that are collected while images are prepared.

    Attributes:
        rejected: (file, fault, reason); fault is "unreadable", "unpaired" or "small".
        duplicates: (file, the earlier file that it repeats).
        misnamed: (file, its real format).
        doubtful: (file, how one of its condition images does not look like its kind).
        captions: the number of captions by origin.
        buckets: the number of images of each (width, height).
        splits, split, unread: as in `Source`.
    """

    images: int = 0
    rejected: list[tuple[str, str, str]] = field(default_factory=list)
    captionless: list[str] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    misnamed: list[tuple[str, str]] = field(default_factory=list)
    doubtful: list[tuple[str, str]] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    hidden: int = 0
    captions: Counter[str] = field(default_factory=Counter)
    buckets: Counter[tuple[int, int]] = field(default_factory=Counter)
    splits: tuple[str, ...] = ()
    split: str | None = None
    unread: list[tuple[str, str]] = field(default_factory=list)

    def begin(self, source: Source) -> None:
        """Copy the facts that a source knows before its images are opened."""
        self.orphans, self.hidden = list(source.orphans), source.hidden
        self.splits, self.split = source.splits, source.split
        self.unread = list(source.unread)

    @property
    def coverage(self) -> float:
        """The share of the kept images that have a caption."""
        return 1 - len(self.captionless) / self.images if self.images else 0.0

    def document(self) -> dict[str, Any]:
        """Return the content of report.json, which the command line prints together with the paths."""
        return {
            "pictures": self.images,
            "captions": {
                "with": self.images - len(self.captionless),
                "without": len(self.captionless),
                "coverage": round(self.coverage, 6),
                "from": dict(self.captions),
            },
            "buckets": {f"{w}x{h}": count for (w, h), count in self.buckets.most_common()},
            "rejected": [{"file": file, "fault": fault, "reason": why} for file, fault, why in self.rejected],
            "captionless": self.captionless,
            "duplicates": [{"file": file, "of": first} for file, first in self.duplicates],
            "misnamed": [{"file": file, "format": kind} for file, kind in self.misnamed],
            "doubtful": [{"file": file, "reason": why} for file, why in self.doubtful],
            "orphans": self.orphans,
            "hidden": self.hidden,
            "split": self.split,
            "splits": list(self.splits),
            "unread": [{"file": file, "reason": why} for file, why in self.unread],
        }

    def check(self, strict: bool, captionless: float) -> None:
        """Check that at most the share `captionless` (0 to 1) of the kept images lack a caption and, with `strict`,
        that no image is rejected, captionless or a duplicate and no file an orphan or unread; else raise SceditError.
        """
        faults = {
            "cannot be used": [f"{file} ({why})" for file, _, why in self.rejected],
            "have no caption": self.captionless,
            "repeat others": [f"{file} (as {first})" for file, first in self.duplicates],
            "belong to no image": self.orphans,
            "are not read": [f"{file} ({why})" for file, why in self.unread],
        }
        if strict and (found := {what: files for what, files in faults.items() if files}):
            raise SceditError(
                "; ".join(f"{len(files)} {what}: {named(files)}" for what, files in found.items()),
                hint="fix them; without `strict` the good images are prepared, and report.json names all others",
            )
        if self.captionless and len(self.captionless) > captionless * self.images:
            raise SceditError(
                f"{len(self.captionless)} of {self.images} images have no caption: {named(self.captionless)}",
                hint="write a .txt or .caption file beside each, name a table's column with `columns=text=NAME`, or "
                "keep them as they are with `allow_captionless`" + self._perhaps_in(),
            )

    def _perhaps_in(self) -> str:
        """Return a note on the first unread file, which may hold the captions."""
        return f"; {self.unread[0][0]} is not read: {self.unread[0][1]}" if self.unread else ""

    def summary(self) -> list[tuple[str, str]]:
        """Return the report as (name, text) rows for the terminal."""
        rows = []
        if self.captions or self.captionless:
            sources = ", ".join(f"{count} from {where}" for where, count in self.captions.most_common())
            rows.append(("captions", f"{self.coverage:.1%} of the images ({sources or 'none'})"))
        if self.buckets:
            sizes = [f"{w}x{h}: {count}" for (w, h), count in self.buckets.most_common()]
            more = f", and {len(sizes) - 8} more sizes" if len(sizes) > 8 else ""
            rows.append(("buckets", ", ".join(sizes[:8]) + more))
        if len(self.splits) > 1:
            others = [split for split in self.splits if split != self.split]
            rows.append(("split", f"{self.split}; nothing of {' and '.join(others)}, which `split` takes"))
        rows += _some("rejected", [f"{file}: {why}" for file, _, why in self.rejected])
        rows += _some("captionless", self.captionless)
        rows += _some("duplicate", [f"{file} repeats {first}" for file, first in self.duplicates])
        rows += _some("misnamed", [f"{file} is {kind}" for file, kind in self.misnamed])
        rows += _some("doubtful", [f"{file}: {why}" for file, why in self.doubtful])
        rows += _some("orphan", self.orphans)
        rows += _some("unread", [f"{file}: {why}" for file, why in self.unread])
        if self.hidden:
            rows.append(("hidden", f"{self.hidden} hidden files passed over"))
        return rows


def named(files: list[str]) -> str:
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    return ", ".join(files[:_NAMED]) + more


def _some(name: str, lines: list[str], most: int = 10) -> list[tuple[str, str]]:
    rows = [(name, line) for line in lines[:most]]
    return rows + [(name, f"{len(lines) - most} more, all in report.json")] if len(lines) > most else rows
