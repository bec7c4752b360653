"""Attacks written against what the documentation promises, with programs and not by hand: see `__main__`."""
