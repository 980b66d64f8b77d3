"""Attaching of tuners to a U-Net, by forward pre-hooks that edit the skips on their way into the decoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scedit_cli.core.bundle import Bundle, checked_scales
from scedit_cli.core.compiled import SeenByCompiler, is_compiled
from scedit_cli.core.frozen import Swapped
from scedit_cli.core.recompute import run_again
from scedit_cli.core.regions import Region, cropped, for_frames
from scedit_cli.core.skips import Entries, SkipMap, edit_skips, in_words, input_of, survey
from scedit_cli.core.tuners import HINT_SCALE, CSCTuner, Tuner
from scedit_cli.utils.errors import SceditError

MEMORY = ("plain", "lean", "checkpoint")

Hints = Mapping[str, Tensor] | Sequence[Tensor] | Tensor | None


def attach(
    unet: nn.Module,
    tuners: Tuner | Bundle | Sequence[Tuner | Bundle],
    scales: Sequence[float] | float | None = None,
    *,
    memory: str = "plain",
    recompute: str = "layer",
) -> Attachment:
    """Attach tuners to `unet` until the attachment is detached or its `with` block ends.

    Every skip x becomes x + Σ α·edit(x), each edit computed from the untouched x. Nothing of the U-Net is replaced:
    its class, state dict and `save_pretrained` stay as they are, and detaching leaves it as it was. Attach before
    compiling or sharding the U-Net.

    Args:
        unet: a diffusers U-Net, for images or video, or another model whose skips `survey` finds.
        tuners: one tuner or bundle, or several; a bundle's tuners count one by one.
        scales: α of each tuner, any real numbers; by default a bundle's own, else 1.
        memory: one of MEMORY. For the backward pass, "plain" keeps the tensors that PyTorch keeps; "lean" only those
            that the gradients of tuners on frozen layers need, for a few per cent of a step's time; "checkpoint" fewer
            still, by running parts of the decoder again. Values and gradients are the same.
        recompute: the parts that "checkpoint" runs again, see `core.recompute.segments`.

    Raises:
        SceditError: a tuner is made for other skips, the U-Net has tuners already or is compiled, or an option is not
            known.
    """
    if memory not in MEMORY:
        raise SceditError(f"memory is {memory!r}", hint=f"choose one of {', '.join(MEMORY)}")
    skips = survey(unet)
    if attached(unet):
        raise SceditError(
            "this U-Net has tuners attached already", hint="attach all tuners at once, or detach the others first"
        )
    entries = skips.entries(unet)
    if is_compiled(unet, *entries):
        raise SceditError("this U-Net is compiled", hint="attach the tuners first, then call torch.compile")
    given = list(tuners) if isinstance(tuners, Iterable) else [tuners]
    flat: list[Tuner] = []
    own: list[float] = []
    for each in given:
        if not isinstance(each, (Tuner, Bundle)):
            raise SceditError(
                f"{type(each).__name__} is no tuner",
                hint="give the tuner itself, as scedit.load_tuner reads it, and not what is wrapped around it",
            )
        flat += each.tuners if isinstance(each, Bundle) else [each]
        own += each.scales if isinstance(each, Bundle) else [1.0]
        tuner_skips = flat[-1].channels
        if tuner_skips != skips.channels:
            raise SceditError(
                f"the {flat[-1]} edits skips of {in_words(tuner_skips)} channels, "
                f"this U-Net's have {in_words(skips.channels)}",
                hint="use a tuner that was trained for this kind of base",
            )
    alphas = checked_scales(own if scales is None else scales, len(flat))
    lean = None if memory == "plain" else Swapped(unet, recompute if memory == "checkpoint" else None)
    return Attachment(unet, skips, entries, flat, alphas, lean)


def attached(unet: nn.Module) -> Attachment | None:
    """Return the attachment of `unet`, or None; a deep-copied or unpickled U-Net has its own."""
    for hook in unet._forward_pre_hooks.values():
        if isinstance(hook, _BeforeUNet):
            return hook.attachment
    return None


class Attachment:
    """The tuners on one U-Net, as `attach` returns them.

    Attributes:
        tuners: the attached tuners, bundles taken apart.
        changes: the number of changes of scales, hints and regions so far.
    """

    def __init__(
        self,
        unet: nn.Module,
        skips: SkipMap,
        entries: Entries,
        tuners: Sequence[Tuner],
        scales: tuple[float, ...],
        lean: Swapped | None = None,
    ) -> None:
        self.tuners = tuple(tuners)
        self.changes = 0
        self._lean = lean
        self._scales = scales
        self._unprompted = 1.0
        self._strides = skips.strides
        self._frames_axis = skips.frames_axis
        self._beside = skips.beside
        self._frames = 1  # of the running call's videos
        self._hints: dict[int, Tensor] = {}  # by the tuner's place in `tuners`
        self._features: dict[int, list[Tensor]] = {}  # encoded hints that do not change from call to call
        self._regions: dict[int, Region] = {}  # by the tuner's place; the others act everywhere
        # The edits that the running call sums up, None outside a call.
        self._active: list[tuple[Tuner, float, list[Tensor] | None, Region | None]] | None = None
        before = unet.register_forward_pre_hook(_BeforeUNet(self, skips.input), with_kwargs=True)
        after = unet.register_forward_hook(_AfterUNet(self), always_call=True)
        self._handles = [before, *edit_skips(unet, skips, self._edit, entries), after, *map(SeenByCompiler, entries)]

    @property
    def scales(self) -> tuple[float, ...]:
        """The α of each tuner; may be set while attached, to any real numbers. All 0 restores the base exactly."""
        return self._scales

    @scales.setter
    def scales(self, scales: Sequence[float] | float) -> None:
        before, self._scales = self._scales, checked_scales(scales, len(self.tuners))
        self.changes += self._scales != before

    @property
    def unprompted(self) -> float:
        """The share of α with which CSC-Tuners act on the first half of a U-Net's batch, which is that without prompts
        under classifier-free guidance; 1 is all of it. Below 1, guidance pushes towards the hints as well as towards
        the prompt."""
        return self._unprompted

    @unprompted.setter
    def unprompted(self, share: float) -> None:
        self.changes += share != self._unprompted
        self._unprompted = share

    def set_hints(self, hints: Hints) -> None:
        """Set the hints of the CSC-Tuners, until they are set again; None removes them.

        Where gradients are recorded for the hint encoder, a hint is encoded at every U-Net call; otherwise at the
        first one only, so set the hints again after changing a tuner's weights.

        Args:
            hints: a mapping by condition, a list in the order of the CSC-Tuners, or the tensor itself for a single one.
                A hint is (B, C, H, W) float in [0, 1], with C the tuner's `in_channels` (3, or 4 with alpha) and H and
                W the image's (8 times the latents'), or (B, C, F, H, W) for each frame of a video. A U-Net batch may be
                a multiple of B: classifier-free guidance then repeats the hints as a whole. DreamLite's latents are two
                images side by side; a hint of the left one alone has features of 0 on the right.

        Raises:
            SceditError: a hint is missing (unless its scale is 0), of an unknown condition, or not such a tensor.
        """
        self._hints, self._features = {}, {}
        self.changes += 1
        if hints is None:
            return
        places = self._places(hints)
        for place, hint in places.items():
            self._check(self.tuners[place], hint, self._frames_axis is not None)
        self._hints = places
        self._require_hints()

    def set_regions(self, regions: Mapping[str, Tensor] | Sequence[Tensor | None] | None) -> None:
        """Limit tuners to parts of the image, until regions are set again; None lets all act everywhere.

        Args:
            regions: a mapping by condition, or a list with one region per attached tuner (None: everywhere). A region
                is (B, 1, H, W) float in [0, 1]: 1 where the tuner acts fully, 0 where it leaves the base as it is. A
                U-Net batch may be a multiple of B.

        Raises:
            SceditError: a condition is unknown, the list has another length, or a region is no such tensor.
        """
        if isinstance(regions, Mapping):
            names = [tuner.condition for tuner in self.tuners]
            if unknown := [name for name in regions if name not in names]:
                raise SceditError(
                    f"no tuner takes the condition {unknown[0]!r}",
                    hint=f"conditions here: {', '.join(filter(None, names)) or 'none'}",
                )
            regions = [regions.get(name) if name else None for name in names]
        regions = [None] * len(self.tuners) if regions is None else list(regions)
        if len(regions) != len(self.tuners):
            raise SceditError(f"{len(regions)} regions for {len(self.tuners)} tuners", hint="give None for everywhere")
        self.changes += 1
        self._regions = {i: Region(weights, self._beside) for i, weights in enumerate(regions) if weights is not None}

    def detach(self) -> None:
        """Detach the tuners, which leaves the U-Net exactly as it was; calling this twice is harmless."""
        for handle in self._handles:
            handle.remove()
        if self._lean:
            self._lean.undo()
        self._hints, self._features, self._regions, self._active = {}, {}, {}, None

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *exception) -> None:
        self.detach()

    def _places(self, hints: Mapping[str, Tensor] | Sequence[Tensor] | Tensor) -> dict[int, Tensor]:
        """Return the hints by their tuner's place in `tuners`."""
        takers = {i: tuner.condition for i, tuner in enumerate(self.tuners) if isinstance(tuner, CSCTuner)}
        names = list(takers.values())
        known = ", ".join(names) or "none: no CSC-Tuner is attached"
        if isinstance(hints, Mapping):
            if unknown := [name for name in hints if name not in names]:
                raise SceditError(f"no tuner takes the condition {unknown[0]!r}", hint=f"conditions here: {known}")
            if twice := [name for name in hints if names.count(name) > 1]:
                raise SceditError(f"two tuners take the condition {twice[0]!r}", hint="give the hints as a list")
            return {i: hints[name] for i, name in takers.items() if name in hints}
        hints = [hints] if isinstance(hints, Tensor) else list(hints)
        if len(hints) != len(takers):
            raise SceditError(
                f"{len(hints)} hints for {len(takers)} CSC-Tuners", hint=f"give one hint per condition: {known}"
            )
        return dict(zip(takers, hints, strict=True))

    @staticmethod
    def _check(tuner: Tuner, hint: Tensor, video: bool) -> None:
        if not isinstance(hint, Tensor) or hint.dim() not in (4, 4 + video) or not hint.is_floating_point():
            got = f"{hint.dtype} of shape {tuple(hint.shape)}" if isinstance(hint, Tensor) else type(hint).__name__
            raise SceditError(
                f"the {tuner.condition} hint is {got}",
                hint=f"give a float tensor (batch, {tuner.in_channels}, {'[frames,] ' * video}height, width) in [0, 1]",
            )
        if hint.shape[1] != tuner.in_channels:
            raise SceditError(
                f"the {tuner.condition} hint has {hint.shape[1]} channels, its tuner takes {tuner.in_channels}",
                hint="give the condition image with the channels the tuner was trained with",
            )

    def _require_hints(self) -> None:
        for i, (tuner, scale) in enumerate(zip(self.tuners, self._scales, strict=True)):
            if scale != 0 and isinstance(tuner, CSCTuner) and i not in self._hints:
                raise SceditError(
                    f"the {tuner} has no {tuner.condition} hint",
                    hint="give it with set_hints, or set the tuner's scale to 0",
                )

    def _begin(self, sample: Tensor) -> None:
        """Collect the active tuners with their features for the U-Net's call on `sample`, (B, C, h, w) or a video."""
        self._require_hints()
        self._frames = 1 if self._frames_axis is None else sample.shape[self._frames_axis]
        active = []
        for i, (tuner, scale) in enumerate(zip(self.tuners, self._scales, strict=True)):
            if scale == 0:
                continue
            if tuner.device != sample.device:
                raise SceditError(
                    f"the {tuner} is on {tuner.device}, the U-Net's input on {sample.device}",
                    hint="move the tuner with tuner.to(device)",
                )
            features = self._encode(i, sample) if isinstance(tuner, CSCTuner) else None
            active.append((tuner, scale, features, self._regions.get(i)))
        self._active = active

    def _encode(self, i: int, sample: Tensor) -> list[Tensor]:
        """Return the hint features of tuner `i`: one for each image or frame of `sample`, or a batch of one."""
        tuner, hint = self.tuners[i], self._hints[i]
        batch, (height, width) = sample.shape[0], sample.shape[-2:]
        wanted = (HINT_SCALE * height, HINT_SCALE * width)
        is_left = self._beside and hint.shape[-2:] == (wanted[0], wanted[1] // 2)
        if hint.shape[-2:] != wanted and not is_left:
            raise SceditError(
                f"the {tuner.condition} hint is {hint.shape[-2]}×{hint.shape[-1]} pixels (height × width), "
                f"latents of {height}×{width} need {wanted[0]}×{wanted[1]}",
                hint="make the condition image as large as the image to generate",
            )
        if batch % hint.shape[0]:
            raise SceditError(
                f"{hint.shape[0]} {tuner.condition} hints for a U-Net batch of {batch}",
                hint="the batch must be a multiple of the hints, or give one hint for all",
            )
        per_frame = hint.dim() == 5
        if per_frame and hint.shape[2] != self._frames:
            raise SceditError(
                f"the {tuner.condition} hint has {hint.shape[2]} frames, the video {self._frames}",
                hint="give one hint per frame, or one for all",
            )
        features = self._features.get(i)
        stale = torch.is_grad_enabled() and (_learns(tuner.encoder, hint) or features and features[0].is_inference())
        if features is None or stale:
            images = hint.transpose(1, 2).flatten(0, 1) if per_frame else hint
            images = images.to(tuner.device, tuner.dtype)
            # Sums in other batches round differently: without gradients, an image's features depend on its hint alone.
            parts = images.split(len(images) if torch.is_grad_enabled() else 1)
            encoded = [tuner.encoder(part, self._strides, lean=self._lean is not None) for part in parts]
            features = [torch.cat(each) if len(each) > 1 else each[0] for each in zip(*encoded, strict=True)]
            if is_left:
                features = [F.pad(each, (0, each.shape[-1])) for each in features]
            self._features.pop(i, None)
            if not features[0].requires_grad:
                self._features[i] = features
        return [for_frames(each, batch, self._frames, per_frame) for each in features]

    def _edit(self, skip: Tensor, index: int) -> Tensor:
        """Return skip `index` (encoder order), (…, C, h, w), with all edits added, in its own dtype.

        The edits are summed negated from 0 and subtracted: 0 - (±0) is +0 and x - (+0) is x in every bit, whereas
        -0 + 0 would turn a skip's -0 into +0.
        """
        if self._active is None:
            raise SceditError("the decoder runs outside the U-Net's call", hint="call unet(...), not unet.forward(...)")
        if not self._active or not len(skip):  # an empty one is of a level whose features are reused
            return skip
        edits = torch.zeros((), dtype=skip.dtype, device=skip.device)
        for tuner, scale, features, region in self._active:
            inputs = (skip, index) if features is None else (skip, index, cropped(features[index], skip))
            edit = run_again(tuner, *inputs) if self._lean else tuner(*inputs)
            if region is not None:
                edit = region.within(edit, self._frames)
            if features is not None and self._unprompted != 1:
                without, with_ = edit.chunk(2)
                edit = torch.cat([self._unprompted * without, with_])
            edits = torch.sub(edits, edit, alpha=scale)
        return torch.sub(skip, edits).to(skip.dtype)


class _BeforeUNet:
    """The forward pre-hook on the U-Net: a class, not a closure, so that it can be pickled and deep-copied."""

    def __init__(self, attachment: Attachment, name: str) -> None:
        self.attachment = attachment
        self.name = name

    def __call__(self, unet: nn.Module, args: tuple, kwargs: dict) -> None:
        self.attachment._begin(input_of(args, kwargs, self.name))


class _AfterUNet:
    """The forward hook on the U-Net, which frees the hint features and their graph."""

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment

    def __call__(self, unet: nn.Module, args: tuple, output: object) -> None:
        self.attachment._active = None


def _learns(encoder: nn.Module, hint: Tensor) -> bool:
    return hint.requires_grad or any(parameter.requires_grad for parameter in encoder.parameters())
