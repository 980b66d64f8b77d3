"""Measures of how well an image follows a condition image; every kind names its own."""
