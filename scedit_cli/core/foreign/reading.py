"""Conversion of other implementations' tensors to tuners of this library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from scedit_cli.core.foreign.sorting import Found, beside, sorted_out
from scedit_cli.core.tuners import CSCTuner, SCTuner, Tuner
from scedit_cli.utils.errors import SceditError

State = dict[str, Tensor]


def read_foreign(
    tensors: Mapping[str, Tensor], names: Sequence[str], file: Path
) -> tuple[list[Tuner], list[State], list[float]]:
    """Split a foreign file into tuners, the SC-Tuner first.

    Args:
        tensors: all tensors of the file.
        names: the conditions of its CSC-Tuners in order; empty for `hint`, `hint2`, ….
        file: the file's path, for errors and for the `configuration.json` or `adapter_config.json` beside it.

    Returns:
        The tuners in the right sizes, on the meta device and without their weights; their state dicts; their scales.

    Raises:
        SceditError: the file holds no tuner, one that does not edit skips, or an incomplete one.
    """
    sc, hinted, blockwise = sorted_out(tensors, file)
    if (step := next(_gaps([sc, *hinted]), None)) is not None:
        raise SceditError(
            f"{file} has no map for decoder step {step}",
            hint="the file is cut short, or its tuner was made for some of the skips only, which is not read",
        )
    if names and len(names) != len(hinted):
        raise SceditError(f"{file} holds {len(hinted)} CSC-Tuners, condition= names {len(names)}", hint="name each one")
    conditions = names or ["hint", *(f"hint{i}" for i in range(2, len(hinted) + 1))][: len(hinted)]
    tuners, states = [], []
    for condition, found in [(None, sc)] * bool(sc.maps) + list(zip(conditions, hinted, strict=True)):
        state = dict(found.hint)
        for i, site in enumerate(sorted(found.maps, reverse=True)):  # the last step consumes skip 0
            state |= {f"maps.{i}.{name}": _pixelwise(tensor) for name, tensor in found.maps[site].items()}
        try:
            with torch.device("meta"):
                tuners.append(_shaped_like(state, condition))
        except KeyError as error:
            raise SceditError(
                f"{file} lacks weights of its tuner: {error.args[0]}", hint="the file is cut short; get it again"
            ) from error
        states.append(state)
    if blockwise:
        blocks = [block for block, _ in sc.maps]
        tuners[0].up_blocks = tuple(blocks.count(b) for b in range(max(blocks) + 1))
    return tuners, states, [1.0] * (len(tuners) - len(hinted)) + _scales_beside(file, len(hinted))


def _gaps(tuners: Sequence[Found]) -> Iterator[int]:
    """Yield the decoder steps for which a tuner has no map, although it has one for a later step."""
    for found in tuners:
        before = (0, -1)
        for count, site in enumerate(sorted(found.maps)):
            if site not in ((before[0], before[1] + 1), (before[0] + 1, 0)):
                yield count
            before = site


def _shaped_like(state: Mapping[str, Tensor], condition: str | None) -> Tuner:
    """Return a tuner with the tensors' sizes: an SC-Tuner if `condition` is None, else a CSC-Tuner."""
    count = sum(key.startswith("maps.") and key.endswith("down.weight") for key in state)
    if not count:
        raise KeyError("there is no map of a skip")
    hidden, channels = zip(*(_shape(state, f"maps.{i}.down.weight")[:2] for i in range(count)), strict=True)
    if condition is None:
        return SCTuner(channels, hidden)
    stem = [_shape(state, f"encoder.stem.{i}.weight") for i in range(0, 13, 2)]
    return CSCTuner(
        channels,
        hidden,
        condition=condition,
        in_channels=stem[0][1],
        hint_channels=stem[6][0],
        hint_kernel=_shape(state, "encoder.chain.0.weight")[-1],
        hint_widths=[stem[0][0], stem[2][0], stem[4][0]],
    )


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    """Return the shape of a convolution's weight; raise KeyError if it is missing or none."""
    if key not in state:
        raise KeyError(key)
    if state[key].dim() != 4 or 0 in state[key].shape:
        raise KeyError(f"{key} is of shape {tuple(state[key].shape)}")
    return tuple(state[key].shape)


def _pixelwise(tensor: Tensor) -> Tensor:
    """Return a linear layer's weight as that of a 1×1 convolution."""
    return tensor[:, :, None, None] if tensor.dim() == 2 else tensor


def _scales_beside(file: Path, count: int) -> list[float]:
    """Return the scales of `count` CSC-Tuners from scepter's `configuration.json` beside `file`, else 1 for each."""
    config = beside(file, "configuration.json")
    control = config.get("CONTROL_MODEL", config if config.get("NAME") == "CSCTuners" else None)
    if not count or control is None:
        return [1.0] * count
    each = control if isinstance(control, list) else [control]
    scales = [one.get("SCALE", 1.0) if isinstance(one, dict) else None for one in each]
    if len(scales) != count or not all(type(scale) in (int, float) for scale in scales):
        raise SceditError(
            f"{file.with_name('configuration.json')}: CONTROL_MODEL gives no scale to each of the {count} tuners of "
            f"{file.name}",
            hint="each entry has a number as SCALE; move the configuration away to load the tuners at scale 1",
        )
    return [float(scale) for scale in scales]
