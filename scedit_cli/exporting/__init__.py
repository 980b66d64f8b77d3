"""Writing of tuners, and of bases with tuners, for the programs where images are made."""
