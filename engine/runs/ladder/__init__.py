"""Ladders and sweeps: plans, states and results, and the directories that have them."""
