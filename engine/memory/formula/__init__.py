"""Predict memory from `config.json` and a preset in milliseconds. Imports no torch."""
