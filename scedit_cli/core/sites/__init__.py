"""The kinds of skip connections, one module each.

A kind has `survey(unet)`, the map of a model's skips, or None if they are of another kind; and `parts(unet)`, the
decoder's modules that can run again in the backward pass, each with whether it is a transformer.
"""

from types import ModuleType

from scedit_cli.core.sites import concatenated, levels, tokens, up_blocks

KINDS: tuple[ModuleType, ...] = (up_blocks, concatenated, levels, tokens)
