"""What each command checks before anything heavy is imported or loaded, a module for each: mistakes that need no
weights are told at once."""
