"""Predict the memory of a run: a formula in milliseconds, a dry run in seconds, a memory probe when the run starts.

Why there are three (`tools/RESULTS.md`, memory predictions):

- Formula, 0.3 ms: the launch screen asks at each key, and the search for what fits takes hundreds of estimates.
- Dry run, 0.8 to 1.6 s for an 8B model: the real model class, within 1.2% of 204 measured peaks on a CPU, median 0.01%;
  the formula's worst is 10.7%. The formula's search is scaled to it.
- Probe, a step before the first: the largest micro-batches on the run's own device. The
  prediction is up to 9% below peaks that others published for GPUs, 7 GB of 80.
"""
