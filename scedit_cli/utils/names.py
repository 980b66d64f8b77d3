"""Names that options and recipes may have, known without a heavy library; tests compare them with what they name."""

from __future__ import annotations

EMBEDDED = "scenes"  # the base that comes with the package
PUBLIC = ("sd15", "sd21", "sdxl")  # families that bench builds of configurations, with random weights
PRECISIONS = ("fp32", "bf16", "fp16")  # of a base
PREDICTIONS = ("epsilon", "v_prediction")  # of a base
RESIZE_RULES = ("crop", "fit", "stretch")
TUNER_PRECISIONS = ("fp16", "bf16", "fp32", "fp64")  # of a tuner's file
