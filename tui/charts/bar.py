"""A progress bar as styled text."""

from __future__ import annotations

StyledText = tuple[str, str]
"""Text and its style."""


def bar(share: float, width: int, ascii_only: bool) -> list[StyledText]:
    """A bar of `width` columns, filled by `share` (0 to 1)."""
    full = round(max(0.0, min(1.0, share)) * max(0, width))
    done, rest = ("=", "-") if ascii_only else ("━", "─")
    return [(done * full, "$primary"), (rest * (max(0, width) - full), "$foreground-muted")]
