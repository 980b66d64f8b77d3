"""Sampling a base with tuners."""
