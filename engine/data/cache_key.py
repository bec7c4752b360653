"""The cache key of a preparation: a hash of file contents, tokenizer, template, settings and ftbench's code."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import time
from pathlib import Path
from typing import Any

import msgspec

from engine.config.files import file_sha256
from engine.config.schema import Data
from engine.data.safe_open import FILE_LIMIT
from engine.data.source import Source

Digests = list[list[str]]
PREPARATION_VERSION = 1
"""Increase it when a change outside `engine/data` changes what is prepared."""
LIBRARIES = ("transformers", "tokenizers", "jinja2")
"""Libraries whose version can change the tokens of a row."""


def cache_key(
    data: Data, max_length: int, tokenizer: Any, split_version: int, source: Source, files: Digests | None
) -> str | None:
    """Hexadecimal key of a preparation; None if its data or tokenizer cannot be identified by content."""
    tokenizer_hash = tokenizer_fingerprint(tokenizer)
    if files is None or tokenizer_hash is None:
        return None
    depends = {
        "version": [PREPARATION_VERSION, code_fingerprint(), *map(_version, LIBRARIES)],
        "data": msgspec.to_builtins(data),
        "max_length": max_length,
        "split_version": split_version,
        "tokenizer": tokenizer_hash,
        "files": files,
        "notes": list(source.notes),
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:40]


def tokenizer_fingerprint(tokenizer: Any) -> str | None:
    """sha256 of a fast tokenizer's state and its chat template; None for slow tokenizers.

    If the template writes today's date, the date is part of the hash.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    backend.no_truncation()  # every call of the tokenizer sets both
    backend.no_padding()
    digest = hashlib.sha256(backend.to_str().encode())
    template = getattr(tokenizer, "chat_template", None)
    settings = {name: str(value) for name, value in sorted(tokenizer.init_kwargs.items()) if name not in _NAMES}
    state = [type(tokenizer).__name__, template, tokenizer.special_tokens_map, settings, len(tokenizer)]
    if "strftime_now" in str(template):
        state.append(time.strftime("%Y-%m-%d"))
    digest.update(json.dumps(state, sort_keys=True, default=str).encode())
    return digest.hexdigest()


_NAMES = ("name_or_path", "chat_template", "tokenizer_file", "tokenizer_object", "vocab_file", "merges_file", "vocab")
"""Tokenizer arguments that are paths, or whose content is hashed."""


@functools.cache
def code_fingerprint() -> str:
    """sha256 of the source files of this package."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def file_digests(source: Source) -> Digests | None:
    """[split, part, column types, sha256 of each file]; None if a part has no files or one cannot be read."""
    found = []
    for split, rows in source.splits.items():
        for part in rows.parts:
            digests = [_digest(path) for path in part.files]
            if not digests or not all(digests):
                return None
            found.append([split, part.name, part.features, *map(str, digests)])
    return found


def _digest(path: Path) -> str | None:
    """A file's sha256; None for a file that cannot be read: the reader reports the error."""
    try:
        return file_sha256(path) if path.is_file() and path.stat().st_size <= FILE_LIMIT else None
    except OSError:
        return None


@functools.cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
