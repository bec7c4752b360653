"""Ladders: plans, states and results, and the directories that have them."""
