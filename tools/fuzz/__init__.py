"""Generated data files: expected rows, file formats, damage, and the checks for each file."""
