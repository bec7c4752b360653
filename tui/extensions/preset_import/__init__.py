"""`ftbench presets import`."""
