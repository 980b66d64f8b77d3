"""Frozen bases: their files, their loading and their schedulers."""
