"""Predict memory by running the real training step on fake tensors: needs no weights and no GPU."""
