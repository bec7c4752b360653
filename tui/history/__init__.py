"""Runs and ladders that have been: as lists and tables, and side by side."""
