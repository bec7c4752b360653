"""On-disk cache of prepared data, keyed by content and settings: `$XDG_CACHE_HOME/ftbench/prepared`.

The key is a hash of file contents, tokenizer, template, settings and ftbench's code. An entry is a folder named by its
key, with one file per column and `meta.json` with facts, tables and checksums. It is written under a temporary name and
renamed when complete. The least recently used entries are removed when the total size exceeds `limit()`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.config import home
from engine.config.errors import Notice
from engine.config.files import SCRATCH_PREFIX, file_sha256, remove_tree, temporary_folder
from engine.config.schema import Data
from engine.data.prepared import Facts, Preparation
from engine.data.readers.text_files import FILE_LIMIT
from engine.data.source import Source
from engine.data.store import ColumnStore, DamagedStore, checksums, mapped
from engine.runs.queue import locks

Digests = list[list[str]]
PREPARATION_VERSION = 1
"""Increase it when a change outside `engine/data` changes what is prepared."""
LIBRARIES = ("transformers", "tokenizers", "jinja2")
"""Libraries whose version can change the tokens of a row."""
_NAMES = ("name_or_path", "chat_template", "tokenizer_file", "tokenizer_object", "vocab_file", "merges_file", "vocab")
"""Tokenizer arguments that are paths, or whose content is hashed."""
MAX_BYTES, MAX_SHARE = 20 * 10**9, 0.1
"""Limits on the total size: bytes, and share of the disk space that would be free without the cache."""
ABANDONED_SECONDS = 3600
"""An incomplete entry that no process has locked, and whose files have not changed for this long, was abandoned."""
_UNFINISHED = ".tmp-"


def cache_key(data: Data, max_length: int, tokenizer: Any, source: Source, files: Digests | None) -> str | None:
    """Hexadecimal key of a preparation; None if its data or tokenizer cannot be identified by content."""
    tokenizer_hash = tokenizer_fingerprint(tokenizer)
    if files is None or tokenizer_hash is None:
        return None
    depends = {
        "version": [PREPARATION_VERSION, code_fingerprint(), *map(_version, LIBRARIES)],
        "data": msgspec.to_builtins(data),
        "max_length": max_length,
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
    digests_of_parts = []
    for split, rows in source.splits.items():
        for part in rows.parts:
            try:
                if not part.files or any(not path.is_file() or path.stat().st_size > FILE_LIMIT for path in part.files):
                    return None
                digests_of_parts.append([split, part.name, part.features, *map(file_sha256, part.files)])
            except OSError:  # the reader reports the error
                return None
    return digests_of_parts


@functools.cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


class EntryMeta(msgspec.Struct):
    """The content of `meta.json`."""

    types: dict[str, str]
    """Column -> type of its values."""
    sha256: dict[str, str]
    """Column -> checksum of its file."""
    tables: dict[str, list[Any]]
    facts: Facts


def cache_folder() -> Path:
    """The folder of the cache."""
    return home.cache_folder() / "prepared"


def load(key: str) -> Preparation | None:
    """Load an entry; None if there is none. Raises DamagedStore if it is not what was written."""
    folder = cache_folder() / key
    try:
        meta = msgspec.convert(json.loads((folder / "meta.json").read_bytes()), EntryMeta)
        sums = checksums(folder, meta.types)
        wrong = [name for name, sum_ in sums.items() if sum_ != meta.sha256.get(name)]
        if wrong:
            raise DamagedStore(f"{wrong[0]}.bin has changed")
        columns = ColumnStore(mapped(folder, meta.types), meta.tables)
        os.utime(folder / "meta.json")
    except (FileNotFoundError, NotADirectoryError) as error:
        if folder.is_dir():
            raise DamagedStore(f"{Path(str(error.filename)).name} is missing") from error
        return None
    except (ValueError, KeyError, msgspec.ValidationError, RecursionError) as error:
        raise DamagedStore(f"meta.json: {error}") from error
    except OSError as error:
        raise DamagedStore(str(error)) from error
    return Preparation(columns, meta.facts)


def remove(key: str) -> None:
    """Remove an entry. Processes that have mapped its files are not affected."""
    gone = cache_folder() / f"{_UNFINISHED}{secrets.token_hex(8)}"
    with contextlib.suppress(OSError):
        (cache_folder() / key).rename(gone)
    remove_tree(gone, ignore_errors=True)


@dataclass
class PendingEntry:
    """A cache entry that is being written, and why it could not be stored."""

    folder: Path | None
    problem: str = ""

    def give_up(self, error: OSError) -> None:
        """Store nothing, because of this error."""
        self.folder, self.problem = None, error.strerror or str(error)

    def keep(self, key: str, done: Preparation) -> None:
        """Complete the entry and move it into the cache. On failure `problem` has the reason; `done` stays usable."""
        if self.folder is None:
            return
        try:
            types = {name: column.dtype.str for name, column in done.columns.columns.items()}
            meta = EntryMeta(types, checksums(self.folder, types), done.columns.tables, done.facts)
            (self.folder / "meta.json").write_text(json.dumps(msgspec.to_builtins(meta)))
            _put(self.folder, cache_folder() / key)
            prune(cache_folder())
            if not (cache_folder() / key).exists():
                self.problem = "it is larger than the cache limit"
        except OSError as error:
            self.give_up(error)

    @property
    def notice(self) -> tuple[Notice, ...]:
        """A warning if the entry could not be stored."""
        if not self.problem:
            return ()
        text = f"prepared data is not cached in {cache_folder()}: {self.problem}; the next run prepares it again"
        return (Notice("data.not_cached", text),)


@contextlib.contextmanager
def pending_entry(key: str | None) -> Iterator[PendingEntry]:
    """A folder for columns: in the cache, or a temporary one if the data has no key. It is deleted on exit."""
    entry = PendingEntry(None)
    with contextlib.ExitStack() as stack:
        try:
            if key:
                cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
            place = (_UNFINISHED, cache_folder()) if key else (SCRATCH_PREFIX, None)
            entry.folder = stack.enter_context(temporary_folder(*place))
        except OSError as error:
            entry.give_up(error)
        yield entry


def prune(root: Path) -> None:
    """Remove abandoned folders, then the least recently used entries until the rest is within the limit."""
    entries, now = [], time.time()
    for folder in root.iterdir():
        size, changed, used = 0, 0.0, 0.0
        with contextlib.suppress(OSError):
            changed = folder.stat().st_mtime
            for file in os.scandir(folder):
                status = file.stat()
                size, changed = size + status.st_size, max(changed, status.st_mtime)
        with contextlib.suppress(OSError):
            used = (folder / "meta.json").stat().st_mtime
        if not folder.name.startswith(_UNFINISHED):
            entries.append((used, size, folder.name))
        elif abs(now - changed) > ABANDONED_SECONDS and not locks.is_locked(folder):
            remove_tree(folder, ignore_errors=True)
    total = sum(size for _, size, _ in entries)
    maximum = limit(root, total)
    for _, size, name in sorted(entries):
        if total <= maximum:
            break
        remove(name)
        total -= size


def limit(root: Path, used: int) -> int:
    """Maximum total size of all entries, in bytes."""
    return min(MAX_BYTES, int(MAX_SHARE * (shutil.disk_usage(root).free + used)))


def _put(folder: Path, target: Path) -> None:
    """Rename a complete entry. If another process was faster, its entry stays: the content is equal."""
    try:
        folder.rename(target)
    except OSError:
        if not (target / "meta.json").exists():
            raise
