"""ComfyUI's calling order around a U-Net of diffusers: its model, its clones, its batches of prompts, its sigmas.

Decoder block i gets skip n - 1 - i and `transformer_options`; the wrappers of a step and of a call run around it. The
real ComfyUI, where it is given, runs the same nodes in test_comfyui_real.py.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


def nodes_in(folder: Path, name: str = "scedit_nodes") -> ModuleType:
    """The package of nodes, imported as ComfyUI imports custom nodes."""
    for known in [each for each in sys.modules if each.partition(".")[0] == name]:
        del sys.modules[known]
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class EPS:
    """Sigmas of SD's schedule."""

    def __init__(self) -> None:
        alphas = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
        self.sigmas = ((1 - alphas) / alphas).sqrt()

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0:
            return 999999999.9
        return 0.0 if percent >= 1 else float(self.sigmas[round((1 - percent) * 999)])


class V_PREDICTION(EPS):
    pass


class Executor:
    """ComfyUI's stack of wrappers around a function."""

    def __init__(self, original: Any, class_obj: Any, wrappers: list) -> None:
        self.original, self.class_obj, self.wrappers = original, class_obj, wrappers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return Executor(self.original, self.class_obj, self.wrappers[1:]).execute(*args, **kwargs)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        return self.wrappers[0](self, *args, **kwargs) if self.wrappers else self.original(*args, **kwargs)


class Model:
    """ComfyUI's BaseModel over a U-Net of diffusers."""

    def __init__(self, unet: nn.Module, sampling: EPS | None = None) -> None:
        self.unet, self.model_sampling = unet, sampling or EPS()
        widths = unet.config.block_out_channels
        self.model_config = SimpleNamespace(
            unet_config={
                "model_channels": widths[0],
                "channel_mult": [width // widths[0] for width in widths],
                "num_res_blocks": [unet.config.layers_per_block] * len(widths),
            }
        )

    def apply_model(self, x: Tensor, t: Tensor, transformer_options: dict, **conds: Any) -> Tensor:
        wrappers = _wrappers(transformer_options, "apply_model")
        return Executor(self._apply_model, self, wrappers).execute(x, t, None, None, None, transformer_options, **conds)

    def _apply_model(
        self, x: Tensor, t: Tensor, concat: Any, context: Any, control: Any, options: dict, **conds
    ) -> Tensor:
        patches, handles, first = options.get("patches", {}).get("output_block_patch", []), [], 0

        def patched(block: nn.Module, args: tuple, kwargs: dict, first: int) -> tuple[tuple, dict]:
            skips = list(kwargs["res_hidden_states_tuple"])
            for k in range(len(block.resnets)):
                at = len(skips) - 1 - k
                for patch in patches:
                    h = kwargs["hidden_states"]
                    _, skips[at] = patch(h, skips[at], {**options, "block": ("output", first + k)})
            return args, kwargs | {"res_hidden_states_tuple": tuple(skips)}

        for block in self.unet.up_blocks:
            hook = lambda block, args, kwargs, first=first: patched(block, args, kwargs, first)
            handles.append(block.register_forward_pre_hook(hook, with_kwargs=True))
            first += len(block.resnets)
        try:
            return self.unet(x.to(self.unet.dtype), t, **conds).sample
        finally:
            for handle in handles:
                handle.remove()


class Patcher:
    """ComfyUI's ModelPatcher: a model with options of its own, which clones copy deeply."""

    def __init__(self, model: Model) -> None:
        self.model, self.model_options = model, {"transformer_options": {}}
        self.wrappers: dict[str, dict[str, list]] = {}
        self.callbacks: dict[str, dict[str, list]] = {}

    def clone(self) -> Patcher:
        other = Patcher(self.model)
        other.model_options = copy.deepcopy(self.model_options)
        for mine, theirs in ((self.wrappers, other.wrappers), (self.callbacks, other.callbacks)):
            theirs.update({kind: {key: list(each) for key, each in by_key.items()} for kind, by_key in mine.items()})
        return other

    def set_model_output_block_patch(self, patch: Any) -> None:
        patches = self.model_options["transformer_options"].setdefault("patches", {})
        patches["output_block_patch"] = patches.get("output_block_patch", []) + [patch]

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, kind: str, key: str) -> None:
        self.wrappers.get(kind, {}).pop(key, None)

    def add_callback_with_key(self, kind: str, key: str, callback: Any) -> None:
        self.callbacks.setdefault(kind, {}).setdefault(key, []).append(callback)

    def remove_callbacks_with_key(self, kind: str, key: str) -> None:
        self.callbacks.get(kind, {}).pop(key, None)

    def step(
        self, x: Tensor, sigma: float, conds: list[dict], areas: list | None = None, chunks: int = 2
    ) -> list[Tensor]:
        """One step of sampling: the U-Net's output for each of `conds` (with the prompt, without it), in batches of at
        most `chunks`. `areas` are the parts of the latents (height, width, top, left) that each one sees."""
        options = {**self.model_options, "transformer_options": {**self.model_options["transformer_options"]}}
        options["transformer_options"]["wrappers"] = self.wrappers
        wrappers = _wrappers(options["transformer_options"], "calc_cond_batch")
        run = lambda model, conds, x, t, options: self._batches(x, t, conds, options, areas, chunks)
        with torch.no_grad():
            return Executor(run, None, wrappers).execute(self.model, conds, x, torch.full((len(x),), sigma), options)

    def _batches(
        self, x: Tensor, t: Tensor, conds: list, options: dict, areas: list | None, chunks: int
    ) -> list[Tensor]:
        outputs: list[Tensor] = []
        for at in range(0, len(conds), chunks):
            part = conds[at : at + chunks]
            inputs = [x] * len(part)
            if areas:
                inputs = [x[..., top : top + h, left : left + w] for h, w, top, left in areas[at : at + chunks]]
            told = {**options["transformer_options"], "cond_or_uncond": list(range(at, at + len(part))), "sigmas": t}
            stacked = {name: _stacked([each[name] for each in part]) for name in part[0]}
            given = self.model.apply_model(torch.cat(inputs), torch.cat([t] * len(part)), told, **stacked)
            outputs += given.chunk(len(part))
        return outputs

    def cleanup(self) -> None:
        for callbacks in self.callbacks.get("on_cleanup", {}).values():
            for callback in callbacks:
                callback(self)


def _stacked(values: list) -> Any:
    if isinstance(values[0], dict):
        return {name: torch.cat([each[name] for each in values]) for name in values[0]}
    return torch.cat(values)


def _wrappers(options: dict, kind: str) -> list:
    return [wrapper for each in options.get("wrappers", {}).get(kind, {}).values() for wrapper in each]
