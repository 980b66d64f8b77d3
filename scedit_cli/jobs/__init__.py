"""The jobs: a module for each subcommand, with a function that is callable from Python."""
