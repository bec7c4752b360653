"""What a run is configured by: schema, defaults, presets, the model catalog, prices. Imports no torch."""
