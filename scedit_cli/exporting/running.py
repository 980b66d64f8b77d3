"""Running of an exported U-Net in the place of a base's own, to check the graph that is shipped."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scedit_cli.core.bundle import Bundle, checked_scales
from scedit_cli.core.tuners import HINT_SCALE, CSCTuner, SCTuner, Tuner
from scedit_cli.exporting.formats import read_description
from scedit_cli.models.base import DTYPES, Base
from scedit_cli.models.loading import quiet
from scedit_cli.utils.errors import SceditError, not_installed, reason


class UNetFolder:
    """A folder that `UNetGraph.write` wrote, known by its description alone.

    Attributes:
        path: the folder.
        about: the description.
        tuner: its tuners without weights, with their scales, conditions, sizes and facts.
        most_rows: the largest batch that the graph takes; guidance takes two rows for each image.

    Raises:
        SceditError: there is no such folder, or its description cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.about = read_description(self.path)
        self.file = self.path / self.about["file"]
        try:
            tuners = [_without_weights(each) for each in self.about["tuners"]]
            self.tuner = Bundle(tuners, [each["scale"] for each in self.about["tuners"]])
            self.dtype: torch.dtype = DTYPES[self.about["dtype"]]
            self.most_rows = int(self.about["most_rows"])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise SceditError(
                f"{path}: its description is damaged: {reason(error)}", hint="export the U-Net again"
            ) from error

    def on(self, base: Base) -> Base:
        """Return `base` with the graph in the place of its U-Net.

        Raises:
            SceditError: the graph was made of another base, or onnxruntime is missing or cannot read it.
        """
        if base.fingerprint != self.about["base_fingerprint"]:
            raise SceditError(
                f"{self.path} was exported from {self.about['base']}, and {base.name} has other weights",
                hint=f"name its base, {self.about['base']}",
            )
        _ = base.skips  # cached: the graph has no modules to read them from
        other = copy.copy(base)
        other._loaded = copy.copy(base._loaded)
        with quiet():
            other._loaded.register_modules(unet=ExportedUNet(self, base.unet))
        return other


class ExportedUNet(nn.Module):
    """An exported graph that a diffusers pipeline calls as it calls its U-Net.

    Args:
        folder: the exported graph.
        unet: the U-Net that it was made of, for its configuration and device.
    """

    def __init__(self, folder: UNetFolder, unet: nn.Module) -> None:
        super().__init__()
        self.config, self.dtype, self.device = unet.config, folder.dtype, unet.device
        self.add_embedding = getattr(unet, "add_embedding", None)  # SDXL's pipeline reads its width
        self.tuners, self.most_rows = tuple(folder.tuner.tuners), folder.most_rows
        self._names = [each["input"] for each in folder.about["tuners"]]
        self._inputs: dict[str, Any] = folder.about["inputs"]
        self._own = self._scales = folder.tuner.scales
        self._hints: Mapping[str, Tensor] = {}
        self.unprompted = 1.0
        self._run = _onnx(folder.file, self.device) if folder.file.suffix == ".onnx" else _program(folder.file)

    @property
    def scales(self) -> tuple[float, ...]:
        """The α of each tuner; may be set between calls, to any real numbers."""
        return self._scales

    @scales.setter
    def scales(self, scales: Sequence[float] | float) -> None:
        self._scales = checked_scales(scales, len(self.tuners))

    def set_hints(self, hints: Mapping[str, Tensor] | None) -> None:
        """Set the hints by condition, each (B, C, H, W) in [0, 1], until they are set again."""
        self._hints = hints or {}

    def check_rows(self, rows: int) -> None:
        """Raise SceditError for a batch of more rows than the graph takes."""
        if rows > (most := self.most_rows):
            message = f"sampler.batch_size: a step has {rows} rows, and the exported U-Net takes at most {most}"
            hint = f"make at most {most} images at once, and {most // 2} with guidance"
            raise SceditError(message, hint, "sampler.batch_size")

    def reset(self) -> None:
        """Take the scales that the graph was written with, and no hints."""
        self._scales, self._hints, self.unprompted = self._own, {}, 1.0

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        timestep_cond: Tensor | None = None,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        return_dict: bool = True,
        **others: Any,
    ) -> Any:
        rows = len(sample)
        self.check_rows(rows)
        given = {
            "sample": sample,
            "timestep": torch.as_tensor(timestep).reshape(-1).expand(rows),
            "encoder_hidden_states": encoder_hidden_states,
            "timestep_cond": timestep_cond,
            **(added_cond_kwargs or {}),
        }
        for tuner, name, scale in zip(self.tuners, self._names, self._scales, strict=True):
            if isinstance(tuner, CSCTuner):
                given[f"hint_{name}"] = self._hint(tuner, scale, sample)
        shares = [1.0] if self.unprompted == 1 else [self.unprompted, 1.0]  # of each part of the rows
        parts = [self._answered(given, slice(rows * n // len(shares), rows * (n + 1) // len(shares)), share)
                 for n, share in enumerate(shares)]  # fmt: skip
        output = torch.cat(parts).to(sample)
        if not return_dict:
            return (output,)
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

        return UNet2DConditionOutput(sample=output)

    def _answered(self, given: Mapping[str, Any], rows: slice, share: float) -> Tensor:
        """Run the graph on some rows, with a share of the CSC-Tuners' scales."""
        inputs = {name: given[name][rows] for name in self._inputs if name in given}
        for tuner, name, scale in zip(self.tuners, self._names, self._scales, strict=True):
            inputs[f"scale_{name}"] = torch.tensor(scale * share if isinstance(tuner, CSCTuner) else scale)
        return self._run(
            {
                name: inputs[name].to(self.device, getattr(torch, each["dtype"])).contiguous()
                for name, each in self._inputs.items()
            }
        )

    def _hint(self, tuner: CSCTuner, scale: float, sample: Tensor) -> Tensor:
        """Return a tuner's hint for every row of the batch; zeros where its scale is 0, as its edit then is."""
        size = (tuner.in_channels, *(HINT_SCALE * side for side in sample.shape[-2:]))
        hint = self._hints.get(tuner.condition)
        if hint is None:
            if scale != 0:
                raise SceditError(f"the {tuner} has no {tuner.condition} hint", hint="give it, or set its scale to 0")
            return torch.zeros(len(sample), *size)
        if tuple(hint.shape[1:]) != size or len(sample) % len(hint):
            raise SceditError(
                f"the {tuner.condition} hint is {tuple(hint.shape)}, and these latents need {(len(sample), *size)}",
                hint="make the condition image as large as the image to generate",
            )
        return hint.repeat(len(sample) // len(hint), 1, 1, 1)


class GraphAttachment:
    """Those tuners of an exported U-Net that act, with the face of `core.attach.Attachment`; the others have scale 0.

    Args:
        unet: the graph.
        tuners: stand for its tuners of the same conditions, in any order.
    """

    def __init__(self, unet: ExportedUNet, tuners: Sequence[Tuner]) -> None:
        self.tuners, self._unet = tuple(tuners), unet
        conditions = [tuner.condition for tuner in unet.tuners]
        self._places = [conditions.index(tuner.condition) for tuner in tuners]
        self.scales = [unet.scales[place] for place in self._places]

    @property
    def scales(self) -> tuple[float, ...]:
        return tuple(self._unet.scales[place] for place in self._places)

    @scales.setter
    def scales(self, scales: Sequence[float]) -> None:
        given = dict(zip(self._places, scales, strict=True))
        self._unet.scales = [given.get(place, 0.0) for place in range(len(self._unet.tuners))]

    @property
    def unprompted(self) -> float:
        return self._unet.unprompted

    @unprompted.setter
    def unprompted(self, share: float) -> None:
        self._unet.unprompted = share

    def set_hints(self, hints: Mapping[str, Tensor] | None) -> None:
        self._unet.set_hints(hints)

    def set_regions(self, regions: Sequence[Tensor | None] | None) -> None:
        """Refuse regions, which the graph has no inputs for."""
        if any(region is not None for region in regions or ()):
            raise SceditError("an exported U-Net takes no masks of its tuners", hint="leave the masks out")

    def detach(self) -> None:
        """Forget hints and scales; the tuners themselves are part of the graph."""
        self._unet.reset()


def _onnx(file: Path, device: torch.device) -> Any:
    """Return a function of onnxruntime's session: on the accelerator where it can, else on the CPU."""
    try:
        import onnxruntime
    except ImportError as error:
        raise not_installed("a U-Net in ONNX", "onnxruntime", "onnx") from error
    known = onnxruntime.get_available_providers()
    providers = [each for each in ("CUDAExecutionProvider",) if device.type == "cuda" and each in known]
    try:
        session = onnxruntime.InferenceSession(file, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class
        raise SceditError(f"{file} cannot be read by onnxruntime: {reason(error)}", hint="export it again") from error

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        return torch.from_numpy(session.run(None, {name: each.cpu().numpy() for name, each in inputs.items()})[0])

    return run


def _program(file: Path) -> Any:
    try:
        module = torch.export.load(file).module()
    except Exception as error:  # of any kind: the bytes may be anything
        raise SceditError(f"{file} cannot be read by torch.export: {reason(error)}", hint="export it again") from error

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return module(dict(inputs))

    return run


def _without_weights(about: Mapping[str, Any]) -> Tuner:
    """Return a tuner that lies in a graph: its condition, sizes and facts, on the meta device."""
    with torch.device("meta"):
        if about["kind"] == "csc":
            tuner: Tuner = CSCTuner(**about["sizes"], condition=about["condition"])
        else:
            tuner = SCTuner(**about["sizes"])
    tuner.metadata = {name: str(value) for name, value in about["metadata"].items()}
    return tuner
