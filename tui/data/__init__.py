"""Data sets for the screens: list, previews, inspection. The engine reads and prepares them."""
