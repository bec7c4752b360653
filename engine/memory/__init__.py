"""Memory of a run before it starts: a formula in milliseconds, a dry run in seconds, a probe at its start."""
