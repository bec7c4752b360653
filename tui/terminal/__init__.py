"""The terminal: its capabilities, colors, ASCII mode, and sending only the cells that change."""
