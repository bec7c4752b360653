"""Charts as rows of styled text, independent of the app and of runs."""
