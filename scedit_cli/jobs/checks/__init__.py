"""The checks of each command before anything heavy is imported or loaded, a module per command, so that mistakes
that show without weights are reported at once."""
