"""Evaluation: losses, generated answers, and metrics that score them."""
