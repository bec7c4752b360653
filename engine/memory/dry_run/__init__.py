"""Memory of a run from the real step on fake tensors: no weights, no GPU."""
