"""The version of scedit."""

__version__ = "0.1.0"
