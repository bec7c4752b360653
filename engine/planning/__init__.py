"""How much memory a run will take, before it starts: a formula in milliseconds, a dry run in seconds."""
