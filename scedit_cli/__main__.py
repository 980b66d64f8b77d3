"""`python -m scedit_cli`: the same program as `scedit`."""

from scedit_cli.app import main

main()
