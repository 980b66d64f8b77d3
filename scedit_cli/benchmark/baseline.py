"""The comparison of a benchmark with an earlier one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scedit_cli.benchmark.document import read_result
from scedit_cli.utils.errors import SceditError

_EXACT = ("trainable_parameters", "flops_per_step", "file_size")  # equal on every machine
_MEASURED = ("peak_memory", "images_per_second")
_MORE_IS_BETTER = ("images_per_second", "score", "nearer", "objects", "psnr", "clip_score")
_QUALITY = ("score", "nearer", "objects", "psnr", "loss", "frechet", "clip_score", "fid")
_SETTINGS = ("base", "batch", "resolution", "dtype")
_HOW = ("lora_rank", "lora_feed_forward", "down_ratio", "compiled", "quantize", "offload", "beside")
_SHOWN = ("scenes", "images", "seeds", "learning_rate")
_EVALUATED = ("protocol", "data", "resolution", "sampler", "steps", "guidance", "control_guidance", "seed")

Document = dict[str, Any]


def read_baseline(path: Path, methods: Sequence[str]) -> Document:
    """Read a document that a benchmark has written that has one of `methods`, or has scores where `methods` is empty.

    Raises:
        SceditError: the file is not such a document, or has no figures to compare.
    """
    document = read_result(path, "`baseline`").document()
    known = {result["method"] for result in document["results"]}
    if methods and not known & set(methods):
        raise SceditError(
            f"`baseline` {path} has none of {', '.join(methods)}",
            hint=f"it has {', '.join(sorted(known)) or 'scores only: compare them with scores'}",
        )
    if not methods and not document["quality"]:
        raise SceditError(f"`baseline` {path} holds no control scores", hint="compare with a document that holds some")
    return document


def check_comparable(path: Path, baseline: Document, document: Document) -> None:
    """Raise SceditError if the baseline was measured with another configuration."""
    for name in (*_SETTINGS, *_HOW):
        if baseline[name] != document[name]:
            raise SceditError(
                f"`baseline` {path} was measured with {name} {baseline[name]}, this is {document[name]}",
                hint="measure both alike",
            )


def same_machine(baseline: Document, document: Document) -> bool:
    """Return whether memory and speed can be compared: the device, the kind of processor and the number of threads
    agree. The platform may differ, as every update of a machine changes it."""
    if baseline["device"] != document["device"] or str(document["device"]).endswith("(estimated)"):
        return baseline["device"] == document["device"]
    about = (each["environment"] for each in (baseline, document))
    one, other = ((each.get("processor"), each.get("threads")) for each in about)
    return one == other


def worse(baseline: Document, document: Document, tolerance: float) -> list[str]:
    """Return a sentence for each figure that got worse by more than `tolerance`, a share of the baseline's figure.
    Memory and speed count on the same machine only, and speed only if even the faster quartile of steps is too slow."""
    fields = _EXACT + (_MEASURED if same_machine(baseline, document) else ())
    now = {result["method"]: result for result in document["results"]}
    sentences = []
    for before in baseline["results"]:
        if result := now.get(before["method"]):
            sentences += _fallen(before["method"], before, result, fields, tolerance)
    earlier, later = (each.get("evaluation") or {} for each in (baseline, document))
    if earlier:
        earlier = {"control_guidance": 1.0} | earlier  # documents of versions that had none do not name it
    for name in _EVALUATED:
        if earlier and later and earlier.get(name) != later.get(name):
            return [*sentences, f"cannot be compared, {name} was {earlier.get(name)} and is {later.get(name)}"]
    for name, before in baseline.get("quality", {}).items():
        if result := document.get("quality", {}).get(name):
            fixed = _SHOWN if name.endswith("same seconds") else (*_SHOWN, "steps")
            other = next((each for each in fixed if before.get(each) != result.get(each)), None)
            if other:
                was, is_now = before.get(other), result.get(other)
                sentences.append(f"{name}: cannot be compared, {other} were {was} and are {is_now}")
            else:
                sentences += _fallen(name, before, result, _QUALITY, tolerance)
    pair = [each.get("estimate") for each in (baseline, document)]
    if all(pair) and len({tuple(each[name] for name in _SETTINGS) for each in pair}) == 1:
        sentences += [f"{pair[1]['base']} (estimated), {sentence}" for sentence in worse(*pair, tolerance)]
    return sentences


def _fallen(name: str, before: Document, now: Document, fields: Sequence[str], tolerance: float) -> list[str]:
    sentences = []
    for field in fields:
        old, new = before.get(field), now.get(field)
        if old is None:
            continue
        if new is None:
            sentences.append(f"{name}: {field} was {old:.6g}, and could not be measured now")
            continue
        best = max(new, *(now.get(f"{field}_quartiles") or (new,)))
        fell = best < old - tolerance * abs(old) if field in _MORE_IS_BETTER else new > old * (1 + tolerance)
        if fell:
            change = f" ({new / old - 1:+.1%})" if old else ""
            sentences.append(f"{name}: {field} was {old:.6g}, is {new:.6g}{change}")
    return sentences
