"""What one run, and the machine it runs on, do right now; for panes, and for terminals without a screen."""
