"""Whole screens of the workbench."""
