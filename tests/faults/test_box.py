"""The box tells crashes, hangs, bombs, tracebacks and sentences apart, and goes on after each."""

from __future__ import annotations

import os
import time

from scedit_cli.utils.errors import SceditError
from tests.faults.box import GIB, faults, try_each


def act(case: str) -> str:
    match case:
        case "hang":
            time.sleep(60)
        case "die":
            os._exit(3)
        case "raise":
            raise ZeroDivisionError("a traceback")
        case "refuse":
            raise SceditError("a.png is no image", "name an image")
        case "bomb":
            return str(len(bytearray(os.urandom(16)) * (2**24)))
    return "read"


def test_every_way_to_end_is_told_apart() -> None:
    cases = ["fine", "hang", "fine", "die", "raise", "refuse", "bomb", "fine", "die"]
    outcomes = try_each(cases, act, seconds=1.0)
    assert [each.case for each in outcomes] == cases
    ways = ["fine", "hung", "fine", "died", "raised", "refused", "fine", "fine", "died"]
    assert [each.what for each in outcomes] == ways
    assert outcomes[6].grown > 0.2 * GIB > outcomes[7].grown
    assert faults(outcomes, 1.0).count(" after ") == 5 and "bomb" in faults(outcomes, 1.0, memory=2**27)
