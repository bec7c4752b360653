"""The `ftbench` command: one module per subcommand."""

COMPLETION = "_FTBENCH_COMPLETE"
"""Variable by which the completion scripts of Typer ask for the words that fit a command line."""
