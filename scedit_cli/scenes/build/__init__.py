"""The program that made the shipped world: `python -m scedit_cli.scenes.build --work DIR`."""
