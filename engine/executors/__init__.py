"""Where a worker process runs: on this machine, or as a job of Slurm. Torch-free; knows runs only as directories."""
