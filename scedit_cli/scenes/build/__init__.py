"""The program that builds the shipped world: `python -m scedit_cli.scenes.build --work DIR`."""
