"""Where a worker runs: a process on this machine, or a job of a batch system. Torch-free; runs are directories here."""
