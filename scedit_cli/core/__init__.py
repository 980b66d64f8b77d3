"""The tuner library: skips, tuners, attaching, losses, files and merging. Needs torch only, and prints nothing."""
