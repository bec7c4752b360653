"""Detect images, audio and video in datasets, which text-only training must not ignore silently."""

from __future__ import annotations

import re
from typing import Any

from engine.data.columns import Summary
from engine.data.conversation import UnusableRow

_NAMES = {"image", "images", "audio", "audios", "video", "videos", "picture", "pictures", "photo", "photos", "img"}
_SUFFIXES = re.compile(
    r"\.(png|jpe?g|gif|webp|bmp|tiff?|wav|mp3|flac|ogg|m4a|mp4|avi|mov|mkv|webm)(\?.*)?$|^data:(image|audio|video)/",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"<image>|(?m:^[ \t]*<(?:video|audio)>)|(?m:<(?:video|audio)>[ \t]*$)")
_PART_TYPES = ("image", "audio", "video", "file", "document")


def is_media_part(kind: str) -> bool:
    """Whether a content part of this type (image_url, input_audio, …) is image, audio, video or a file."""
    return any(word in kind for word in _PART_TYPES)


def media_columns(summary: Summary) -> list[str]:
    """Columns whose values are images, audio or video: bytes, or paths in a column with such a name."""
    found = []
    for name in summary.filled:
        values = [raw.values[name] for raw in summary.sample if raw.values.get(name)]
        if values and all(_is_media(value, name.lower() in _NAMES) for value in values):
            found.append(name)
    return found


def _is_media(value: Any, named: bool) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_media(item, named) for item in value)
    if isinstance(value, dict):
        return {"bytes", "path"} <= value.keys() or (named and any(_is_media(item, named) for item in value.values()))
    if isinstance(value, bytes | bytearray):
        return True
    return named and isinstance(value, str) and bool(_SUFFIXES.search(value))


def refuse_placeholder(messages: list[dict[str, Any]]) -> None:
    """Raise UnusableRow for a prompt with a placeholder for an image, audio or video."""
    for number, turn in enumerate(messages, 1):
        text = turn["content"]
        if turn["role"] != "assistant" and "<" in text and (found := _PLACEHOLDER.search(text)):
            raise UnusableRow("data.media", f"message {number} contains {found.group().strip()}")
