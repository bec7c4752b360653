"""Pairwise comparison of answers by a judge model and by people; no torch. Its process owns `judgments/`."""
