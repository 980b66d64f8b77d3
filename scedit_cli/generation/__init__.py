"""What `scedit generate` is asked for, in which order pictures are made, and how they are named and kept."""
