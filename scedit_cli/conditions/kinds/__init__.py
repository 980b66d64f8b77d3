"""One file per kind of condition, each defining `KIND`."""
