"""One run from start to end, and the servers that answer other processes."""
