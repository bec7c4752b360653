"""Sweeps: a ladder for each value of one or two settings, `ftbench ladder --vary`."""
