"""`python -m scedit_cli`: the same program as `scedit`."""

from scedit_cli.cli import main

main()
