"""Frozen bases: what their files hold, how they are loaded, and their schedulers."""
