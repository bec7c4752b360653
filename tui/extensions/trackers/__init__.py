"""`ftbench track`."""
