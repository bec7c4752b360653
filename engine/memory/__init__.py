"""Predict the memory of a run: a formula in milliseconds, a dry run in seconds, a memory probe when the run starts."""
