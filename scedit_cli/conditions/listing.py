"""The table of all annotators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scedit_cli.conditions.registry import Annotator, all_kinds


@dataclass(frozen=True)
class Listing:
    """The annotators of all kinds of condition, each kind's default first."""

    annotators: list[Annotator]

    header = ("kind", "annotator", "library", "weights", "licence", "commercial use")

    def document(self) -> dict[str, Any]:
        """Return the list as a document."""
        return {
            "annotators": [
                {
                    "kind": each.kind,
                    "annotator": each.name,
                    "library": each.library,
                    "weights": list(each.weights),
                    "licence": each.licence,
                    "commercial": each.commercial,
                    "parameters": each.settings().model_dump(mode="json"),
                }
                for each in self.annotators
            ]
        }

    def rows(self) -> list[list[str]]:
        """Return the table's rows for the terminal."""
        return [
            [
                each.kind,
                each.name,
                each.library,
                ", ".join(each.weights) or "none",
                each.licence,
                "yes" if each.commercial else "no",
            ]
            for each in self.annotators
        ]


def listing() -> Listing:
    """Return the listing of all kinds."""
    return Listing([each for kind in all_kinds().values() for each in kind.annotators])
