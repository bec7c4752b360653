"""One run from start to end, and the server that answers questions of the TUI."""
