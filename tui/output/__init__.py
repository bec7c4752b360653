"""Output to the terminal. Only this package may write to it, with control characters shown as escapes."""
