"""Datasets for the screens: list, previews, inspection. The engine reads and prepares them."""
