"""Figures as rows of styled text, without an app; anybody in tui may call it, and it knows no run."""
