"""The edits of a U-Net's skips in ComfyUI: a patch of its decoder's blocks, and a wrapper that prepares each call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .hints import Tile, hint_for, tiles_of, weights_for
from .tuners import Tuner

KEY = "scedit"
_WHOLE = "scedit_whole"  # the latents of the whole sampling step, in transformer_options
_KEPT = 16  # encoded batches of hints that are kept: tiles come in turn at each step
_PREDICTIONS = {"V_PREDICTION": "v_prediction", "X0": "sample", "EPS": "epsilon"}


class Applied:
    """A tuner as one node applies it.

    Args:
        tuner: the tuner.
        strength: α, any real number; 0 leaves the model as it is.
        start, end: the part of the sampling in which it acts, as shares in [0, 1].
        hint: (B, in_channels, H, W) in [0, 1], for a CSC-Tuner.
        mask: (B, 1, H, W) in [0, 1], 1 where the tuner acts; None: everywhere.
    """

    def __init__(
        self, tuner: Tuner, strength: float, start: float, end: float, hint: Tensor | None, mask: Tensor | None
    ) -> None:
        self.tuner, self.hint, self.mask = tuner, hint, mask
        self.alpha = strength * tuner.scale
        self.start, self.end = start, end
        self._weights: dict[tuple, dict[str, Tensor]] = {}
        self._features: OrderedDict[tuple, list[Tensor]] = OrderedDict()

    def acts_at(self, sigma: float, sampling: Any) -> bool:
        """Return whether the tuner changes anything at this noise level; `sampling` is the model's."""
        if self.alpha == 0:
            return False
        return sampling.percent_to_sigma(self.end) <= sigma <= sampling.percent_to_sigma(self.start)

    def weights(self, like: Tensor) -> dict[str, Tensor]:
        """Return the tuner's weights on the device and in the precision of `like`."""
        key = (like.device, like.dtype)
        if key not in self._weights:
            self._weights = {key: {name: weight.to(*key) for name, weight in self.tuner.weights.items()}}
        return self._weights[key]

    def features(self, tiles: Sequence[Tile], like: Tensor, strides: Sequence[int]) -> list[Tensor]:
        """Return the features of the hints of these tiles, one row each; they are encoded once."""
        key = (tuple(tiles), like.device, like.dtype)
        if key not in self._features:
            hints = torch.cat([hint_for(self.hint, tile, self.tuner.condition) for tile in tiles])
            self._features[key] = self.tuner.encode(self.weights(like), hints.to(like), strides)
            if len(self._features) > _KEPT:
                self._features.popitem(last=False)
        self._features.move_to_end(key)
        return self._features[key]

    def forget(self) -> None:
        """Free the copies on the device, which the next sampling makes again."""
        self._weights, self._features = {}, OrderedDict()


class Call:
    """The edits of one call of the U-Net.

    Args:
        applied: the tuners that act in it.
        tiles: the part of the latents that each row of the batch shows.
        strides: the factor by which each skip is smaller than the latents, in encoder order.
    """

    def __init__(self, applied: Sequence[Applied], tiles: Sequence[Tile], strides: Sequence[int]) -> None:
        self._applied, self._strides, self._tiles = applied, strides, tiles
        self._masks: dict[tuple, Tensor] = {}

    def edited(self, skip: Tensor, index: int) -> Tensor:
        """Return skip `index` (encoder order) with all edits added, each computed from the untouched skip.

        The edits are summed negated from 0 and subtracted: 0 - (±0) is +0 and x - (+0) is x in every bit, whereas
        -0 + 0 would turn a skip's -0 into +0.
        """
        edits = torch.zeros((), dtype=skip.dtype, device=skip.device)
        for each in self._applied:
            feature = None
            if each.hint is not None:
                tiles, rows = _unique(self._tiles, len(each.hint))
                feature = _rows(each.features(tiles, skip, self._strides)[index], rows)
            edit = each.tuner.edit(each.weights(skip), skip, index, feature)
            if each.mask is not None:
                edit = edit * self._mask(each, edit)
            edits = torch.sub(edits, edit, alpha=each.alpha)
        return torch.sub(skip, edits).to(skip.dtype)

    def _mask(self, each: Applied, edit: Tensor) -> Tensor:
        size = tuple(edit.shape[-2:])
        key = (id(each), size)
        if key not in self._masks:
            tiles, rows = _unique(self._tiles, len(each.mask))
            weights = torch.cat([weights_for(each.mask, tile, size) for tile in tiles])
            self._masks[key] = _rows(weights.to(edit), rows)
        return self._masks[key]


class SkipEdits:
    """The tuners on one model, in ComfyUI's terms: an `output_block_patch`, two wrappers and a clean-up callback.

    It never changes: a further tuner makes a new one, which takes its place on a clone of the model.

    Args:
        applied: the tuners, whose edits are summed.
        strides: the factor by which each skip is smaller than the latents, in encoder order.
    """

    def __init__(self, applied: Sequence[Applied], strides: Sequence[int]) -> None:
        self.applied, self.strides = tuple(applied), tuple(strides)

    def __deepcopy__(self, memo: dict) -> SkipEdits:
        return self  # ComfyUI deep-copies a model's options with each clone: the weights need no copies

    def __call__(self, h: Tensor, skip: Tensor, options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the inputs of a decoder block, `skip` edited. Block i takes skip n - 1 - i of the encoder's n."""
        call = options.get(KEY)
        if call is None:
            return h, skip
        return h, call.edited(skip, len(self.strides) - 1 - options["block"][1])

    def before_step(self, executor: Callable, model: Any, conds: Any, x: Tensor, timestep: Any, options: dict) -> Any:
        """Wrap the calls of one sampling step (CALC_COND_BATCH), to note the latents that they are parts of."""
        inner = {**options.get("transformer_options", {}), _WHOLE: x}
        return executor(model, conds, x, timestep, {**options, "transformer_options": inner})

    def before_call(
        self, executor: Any, x: Tensor, t: Tensor, concat: Any, context: Any, control: Any, options: dict, **others: Any
    ) -> Any:
        """Wrap one call of the model (APPLY_MODEL), to prepare its edits; `t` are the noise levels (sigmas)."""
        sampling = executor.class_obj.model_sampling
        sigma = float(t.flatten()[0])
        active = [each for each in self.applied if each.acts_at(sigma, sampling)]
        for each in active:
            _check_prediction(each.tuner, sampling)
        if active:
            tiles = tiles_of(x, options.get(_WHOLE), len(options.get("cond_or_uncond", ())) or 1)
            options = {**options, KEY: Call(active, tiles, self.strides)}
        return executor(x, t, concat, context, control, options, **others)

    def after_sampling(self, patcher: Any) -> None:
        for each in self.applied:
            each.forget()


def apply_to(model: Any, added: Applied) -> Any:
    """Return a clone of ComfyUI's model that one more tuner edits; the model itself stays as it is.

    Raises:
        ValueError: the model has no skips, or other ones than the tuner's.
    """
    channels, strides = skips_of(model)
    tuner = added.tuner
    if tuner.channels != channels:
        raise ValueError(
            f"{tuner} was trained for {tuner.base}, whose skips have {_in_words(tuner.channels)} channels; this "
            f"model's have {_in_words(channels)}. Load the checkpoint that it was trained on, or a tuner for this one"
        )
    clone = model.clone()
    if not hasattr(clone, "add_wrapper_with_key"):
        raise ValueError("this ComfyUI has no model wrappers; SCEdit's nodes need a version of 2025 or later")
    patches = clone.model_options["transformer_options"].setdefault("patches", {}).get("output_block_patch", [])
    before = next((each for each in patches if isinstance(each, SkipEdits)), None)
    edits = SkipEdits([*(before.applied if before else ()), added], strides)
    if before is None:
        clone.set_model_output_block_patch(edits)
    else:  # it takes the place of the other, so that all edits are computed from the untouched skip
        clone.model_options["transformer_options"]["patches"]["output_block_patch"] = [
            edits if each is before else each for each in patches
        ]
    for kind, wrapper in (("calc_cond_batch", edits.before_step), ("apply_model", edits.before_call)):
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    clone.remove_callbacks_with_key("on_cleanup", KEY)
    clone.add_callback_with_key("on_cleanup", KEY, edits.after_sampling)
    return clone


def skips_of(model: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the channels of the skips of ComfyUI's model, in encoder order, and the factors by which they are smaller
    than the latents.

    Raises:
        ValueError: the model is no U-Net.
    """
    config = getattr(getattr(model.model, "model_config", None), "unet_config", {})
    if not {"model_channels", "channel_mult", "num_res_blocks"} <= config.keys():
        raise ValueError(
            f"{type(model.model).__name__} has no skip connections to edit: SCEdit's tuners are for U-Nets, such as "
            "those of Stable Diffusion 1.5, 2.1 and XL"
        )
    width, levels = config["model_channels"], config["channel_mult"]
    layers = config["num_res_blocks"]
    layers = [layers] * len(levels) if isinstance(layers, int) else layers
    channels, strides = [width], [1]
    for level, (factor, count) in enumerate(zip(levels, layers, strict=True)):
        places = [2**level] * count + ([2 ** (level + 1)] if level < len(levels) - 1 else [])
        channels += [factor * width] * len(places)
        strides += places
    return tuple(channels), tuple(strides)


def _check_prediction(tuner: Tuner, sampling: Any) -> None:
    names = [each.__name__ for each in type(sampling).__mro__]
    found = next((_PREDICTIONS[name] for name in _PREDICTIONS if name in names), None)
    if found and tuner.prediction_type and found != tuner.prediction_type:
        raise ValueError(
            f"{tuner} was trained with a base that predicts {tuner.prediction_type} ({tuner.base}), and this model is "
            f"sampled as one that predicts {found}. Load that base, or set its prediction with ModelSamplingDiscrete"
        )


def _unique(tiles: Sequence[Tile], count: int) -> tuple[list[Tile], list[int] | None]:
    """Return the different tiles of `count` hints, and for each row of the batch its place among them; None instead
    where all rows are in order, or where the only one serves all."""
    own = [Tile(t.image % count, t.top, t.left, t.height, t.width, t.whole) for t in tiles]
    unique = list(dict.fromkeys(own))
    return unique, None if unique == own or len(unique) == 1 else [unique.index(tile) for tile in own]


def _rows(values: Tensor, rows: list[int] | None) -> Tensor:
    return values if rows is None else values[rows]


def _in_words(channels: Sequence[int]) -> str:
    counts: list[list[int]] = []
    for each in channels:
        if counts and counts[-1][0] == each:
            counts[-1][1] += 1
        else:
            counts.append([each, 1])
    return ", ".join(f"{each}×{count}" if count > 1 else str(each) for each, count in counts)
