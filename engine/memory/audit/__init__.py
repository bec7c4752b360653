"""Audit a run's real step on fake tensors: FLOPs by type, masks, logits, host synchronizations. Needs no GPU."""
