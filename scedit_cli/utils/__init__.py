"""Errors, files, locks, the hub and devices, for use in every room."""
