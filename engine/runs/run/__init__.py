"""A run is a directory: its configuration, events, result and exports."""
