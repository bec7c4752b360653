"""The options of `ftbench ladder` that start a sweep, and what the command line shows of it."""
