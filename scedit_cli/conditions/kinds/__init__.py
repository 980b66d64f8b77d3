"""The kinds of condition: one file per kind, which defines `KIND`."""
