"""Every annotator there is, in a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scedit_cli.conditions.registry import Annotator, all_kinds


@dataclass(frozen=True)
class Listing:
    """Every kind of condition and its annotators, each kind's default first."""

    annotators: list[Annotator]

    header = ("kind", "annotator", "library", "weights", "licence", "commercial use")

    def document(self) -> dict[str, Any]:
        """What --json writes."""
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
        """What a person reads."""
        return [
            [
                each.kind,
                each.name,
                each.library,
                "\n".join(each.weights) or "none",
                each.licence,
                "yes" if each.commercial else "no",
            ]
            for each in self.annotators
        ]


def listing() -> Listing:
    """Of all kinds."""
    return Listing([each for kind in all_kinds().values() for each in kind.annotators])
