"""Show text from files, models and logs safely: control characters become visible escapes. Also parts of sentences."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence

# Unicode categories that can move the cursor, reorder a line or hide text: control, format, surrogate, private use,
# unassigned, line and paragraph separators.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_NAMES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
IGNORABLE = re.compile(
    "[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Default_Ignorable_Code_Point of Unicode 16 (DerivedCoreProperties.txt): invisible characters of any category.

Variation selectors are among them: emoji show theirs as an escape.
"""
REDACTED = "[redacted]"
ADDRESS_CREDENTIALS = re.compile(
    r"(?<=://)[^\s/]+(?=@)"  # user:password or a token in a URL
    r"|(?<![\w/.%+-])[\w.%+-]{1,512}:[^\s/@'\"]{1,512}(?=@[\w.-]+[:/#])"  # the same without http://
    r"|(?<=[?&])(?:[\w-]*(?:key|token|secret|passw|auth|signature)[\w-]*|sig)=[^\s&#'\";)]+",  # of a query
    re.IGNORECASE,
)
"""What an address must not show."""
CREDENTIALS = (
    ADDRESS_CREDENTIALS,
    re.compile(
        r"\b(?:hf_[A-Za-z0-9]{16,}"  # not hf-internal-testing
        r"|(?:sk|pk|rk|ghp|gho|ghs|ghu|github_pat|glpat|xox[abprs]|pypi|dop_v1|wandb_v1)[-_]"
        r"(?=[A-Za-z0-9_-]*[0-9])[A-Za-z0-9_-]{12,})"
    ),
    re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),  # JSON Web Token
    re.compile(r"(?<=bearer )(?:(?=[^\s\"',;]*[0-9._-])[^\s\"',;]{6,}|[^\s\"',;]{16,})", re.IGNORECASE),
    re.compile(r"(?<=basic )(?=[a-z+/]*[0-9=])[a-z0-9+/=]{8,}", re.IGNORECASE),  # base64, not a word
    re.compile(  # a header or a setting
        r"\b(?:x-)?api[-_]?key(?:['\"]?\s*[:=]\s*b?['\"]?|['\"],\s*b?['\"])[^\s'\",;&)}\]]{6,}", re.IGNORECASE
    ),
)
"""What looks like a credential wherever it is written: in addresses, headers and tokens of known services."""
LINE_LIMIT = 4000
"""Maximum characters of a log line that are shown."""


SPECIAL_TOKEN = re.compile(r"<\|[^<>|\s]{1,40}\|>|<(?:start|end)_of_turn>|</?s>|\[/?INST\]|<[｜|][^<>]{1,40}[｜|]>")
"""Tokens of chat templates: they are noise for people, and a server would read them as the end of a message."""


def visible(text: str, limit: int | None = None) -> str:
    """The text on one line, with every control or invisible character written as an escape.

    Text longer than `limit` characters is cut and ends with an ellipsis.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable() and (text.isascii() or not IGNORABLE.search(text)):
        return text
    return "".join(map(_shown, text))


def without_credentials(text: str) -> str:
    """The text without what looks like a credential."""
    for pattern in CREDENTIALS:
        text = pattern.sub(REDACTED, text)
    return text


def shortened(text: str, limit: int = LINE_LIMIT, cut_before: int = 0) -> str:
    """The first `limit` characters, followed by how many are missing. `cut_before`: bytes that were cut earlier.

    >>> shortened("a" * 12, 10)
    'aaaaaaaaaa … [2 more characters not shown]'
    """
    missing = max(0, len(text) - limit) + cut_before
    return f"{text[:limit]} … [{amount(missing, 'more character')} not shown]" if missing else text


def escaped(name: str) -> str:
    """A file name as valid Unicode, with escapes for bytes that are not UTF-8: `caf\\xe9.jsonl`.

    Python represents such bytes as lone surrogates, which JSON, TOML and UTF-8 cannot encode.
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def listed(words: Sequence[str], conjunction: str = "and") -> str:
    """Words as an enumeration: `QLoRA, LoRA and full`."""
    return f" {conjunction} ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def amount(number: int, noun: str) -> str:
    """`1 run`, `1,200 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def suggestion(wrong: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """` (did you mean qlora?)`, or '' where nothing is similar. `cutoff`: the least similarity, from 0 to 1."""
    close = difflib.get_close_matches(wrong, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {close[0]}?)" if close else ""


def _shown(character: str) -> str:
    if character in _NAMES:
        return _NAMES[character]
    if unicodedata.category(character) not in _HIDDEN and not IGNORABLE.match(character):
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
