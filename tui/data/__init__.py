"""Data sets as the screens offer, count and inspect them; what they are is the business of the engine."""
