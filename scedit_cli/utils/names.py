"""Values that options and recipes accept, listed without heavy imports; tests compare them with the libraries' own."""

from __future__ import annotations

EMBEDDED = "scenes"  # the base that comes with the package
PUBLIC = ("sd15", "sd21", "sdxl")  # families that bench builds from configurations, with random weights
PRECISIONS = ("fp32", "bf16", "fp16")  # of a base
PREDICTIONS = ("epsilon", "flow", "v_prediction")  # of a base
RESIZE_RULES = ("crop", "fit", "stretch")
OFFLOADS = ("models", "encoder")  # what a base keeps off the accelerator while images are generated
TUNER_SUFFIXES = (".safetensors", ".bin")
TUNER_PRECISIONS = ("fp16", "bf16", "fp32", "fp64")  # of a tuner's file
KIND = r"[a-z][a-z0-9_-]*"  # the name of a kind of condition, which is also a folder's
LARGEST_SEED = 2**64 - 1  # the largest that PyTorch takes and ComfyUI draws

# The storages of a frozen base's weights in few bits: the library that each needs, and the extra that installs it.
QUANTIZERS = {
    "int8": ("torchao", "quantize"),
    "fp8": ("torchao", "quantize"),
    "int4": ("torchao", "quantize"),
    "nf4": ("bitsandbytes", "8bit"),
}
