"""The page to rate in a browser: one HTML file without requests, which writes a file to send back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.runs.preference.answers import text_hash
from engine.runs.preference.ratings import MAX_NAME, PAGE_KIND, PairToRate, fingerprint

TEMPLATE = Path(__file__).parent / "rating_page.html"
PLACE = "__FTBENCH_PAIRS__"


def render(pairs: Sequence[PairToRate]) -> bytes:
    """The page in UTF-8. It contains no names of rungs, and shows each pair in a random order of its own."""
    content = {
        "kind": PAGE_KIND,
        "set": fingerprint(pairs),
        "longest_name": MAX_NAME,
        "pairs": [
            {
                "pair": pair.id,
                "question": pair.question,
                "answers": [{"text": text, "hash": text_hash(text)} for text in sorted((pair.left, pair.right))],
            }
            for pair in pairs
        ],
    }
    # Nothing in the data can end the script element or start a comment in it.
    data = msgspec.json.encode(content).replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    before, _, after = TEMPLATE.read_bytes().partition(PLACE.encode())
    return before + data + after
