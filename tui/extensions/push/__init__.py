"""The options of `ftbench export` that push."""
