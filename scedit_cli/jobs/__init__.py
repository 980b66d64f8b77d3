"""One module per subcommand, each one function callable from Python."""
