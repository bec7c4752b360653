"""Whether a server really serves a run: its answers against the recorded ones of the run and of its base model."""
