"""The program that builds the shipped world: `python -m scedit_cli.scenes.build --work DIR`."""

from scedit_cli.utils.malloc import keep_freed_memory
from scedit_cli.utils.threads import choose_waiting

keep_freed_memory()
choose_waiting()  # before the modules of this room import PyTorch
