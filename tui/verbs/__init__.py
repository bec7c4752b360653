"""The verbs of the `ftbench` command, a file each."""
