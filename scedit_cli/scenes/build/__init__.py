"""The program that builds the shipped world: `python -m scedit_cli.scenes.build --work DIR`."""

from scedit_cli.utils.threads import choose_waiting

choose_waiting()  # before the modules of this room import PyTorch
