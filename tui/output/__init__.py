"""The only package that may write to the terminal: it shows control characters as escapes."""
