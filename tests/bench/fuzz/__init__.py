"""Generated data files: what they mean, how they are written, how they are damaged, and what must hold for each."""
