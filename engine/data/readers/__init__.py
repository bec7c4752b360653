"""Readers of files and datasets: rows with the location of each. Limits on size and depth are checked here."""
