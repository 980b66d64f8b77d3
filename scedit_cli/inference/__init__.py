"""Sampling of a base with tuners: controls, denoising, and the images that come out."""
