"""The terminal we are shown on: what it can do, its colours, and what it shows by now."""
