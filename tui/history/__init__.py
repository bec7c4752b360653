"""Past runs and ladders as lists, tables and comparisons."""
