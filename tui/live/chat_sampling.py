"""Sampling settings as one line of text, as they are edited."""

from __future__ import annotations

import msgspec

from engine.config.errors import UserError
from engine.runs.chat_messages import Sampling

LIMITS = {"temperature": (0.0, 10.0), "top_p": (0.01, 1.0), "seed": (0, 2**63 - 1), "max_new_tokens": (1, 32768)}
"""Setting -> lowest and highest value."""


def written(sampling: Sampling) -> str:
    """`temperature=0 top_p=1 seed=0 max_new_tokens=128`."""
    return " ".join(f"{name}={getattr(sampling, name):g}" for name in LIMITS)


def parse_sampling(text: str, before: Sampling) -> Sampling:
    """Change the settings that the text names. Raises UserError for an unknown name or a value out of range."""
    found: dict[str, float] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if name not in LIMITS:
            raise UserError(f"unknown setting {name!r}", "sampling", f"use {', '.join(LIMITS)}", "chat.sampling")
        low, high = LIMITS[name]
        try:
            number = int(value) if isinstance(low, int) else float(value)
        except ValueError:
            number = -1
        if not low <= number <= high:
            raise UserError(f"invalid value {value!r}", name, f"use {low:g} to {high:g}", "chat.sampling")
        found[name] = number
    return msgspec.structs.replace(before, **found)
