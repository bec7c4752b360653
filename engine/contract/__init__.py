"""The light floor under both houses: presets, events and run directories. Imports no torch."""
