"""The judge's and the raters' commands, keys and screen."""
