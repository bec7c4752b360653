"""The `ftbench` command: one module per subcommand."""
