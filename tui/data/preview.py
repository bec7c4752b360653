"""Previews of the datasets in the list: counted by the engine in the background, one at a time, and cached."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field
from textual.message import Message

from engine import __version__
from engine.config.errors import Notice, RunFailed, UserError, error_text
from engine.config.files import is_data_file, read_small, write_atomically
from engine.config.home import cache_folder
from engine.config.quantities import size
from engine.config.text import amount, escaped
from engine.runs.rpc_client import Cancelled, CancelToken, ask

MAX_BYTES = 64 << 20
"""Size up to which a set is counted in the background."""
SECONDS = 30.0
"""Timeout for counting one set, which would block all others on a slow network disk."""
MAX_CACHED = 500
MAX_CACHE_BYTES = 64 << 20
"""Maximum size of the cache file."""
_DEPTH, _ENTRIES = 3, 10_000
"""Folder depth and number of entries that the engine reads."""


class Preview(Struct, frozen=True):
    """What is known of a dataset without a model."""

    rows: dict[str, int] = field(default_factory=dict)
    """Rows by split, as in the files; empty where they were not counted."""
    format: str = ""
    why: str = ""
    unusable: int = 0
    """Rows without a token in the loss."""
    kinds: dict[str, Any] = field(default_factory=dict)
    columns: list[dict[str, str]] = field(default_factory=list)
    """Name and role of each column."""
    warnings: list[Notice] = field(default_factory=list)
    error: str = ""
    """Why it cannot be used, with what to do."""
    suggested: dict[str, Any] = field(default_factory=dict)
    """Settings below `data` with which it can be used."""
    examples: list[list[tuple[str, str]]] = field(default_factory=list)
    """The first rows with these settings: (role, text) of each message."""
    note: str = ""
    """Why it was not counted."""
    gone: bool = False
    """Whether the file does not exist."""

    @property
    def problems(self) -> list[str]:
        """All problems, one sentence each."""
        bad = [f"{amount(kind['rows'], 'row')} left out: {kind['where'][0]}" for kind in self.kinds.values()]
        return [*([self.error] if self.error else []), *bad, *(notice.text for notice in self.warnings)]


@dataclass
class PreviewReady(Message):
    """The preview of a set."""

    data: str
    preview: Preview


class PreviewThread(threading.Thread):
    """Creates previews of the requested sets in order; touches no widget."""

    def __init__(self, post: Callable[[Message], object]) -> None:
        super().__init__(daemon=True, name="previews")
        self.post = post
        self._wanted: list[tuple[str, dict[str, Any]]] = []
        self._change = threading.Condition()
        self._cancel_token: CancelToken | None = None
        self._left = False

    def want(self, sets: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Request previews of these (data id, data section of the configuration), replacing earlier requests."""
        with self._change:
            self._wanted = list(sets)
            self._change.notify()

    def stop(self) -> None:
        """Stop, also while a set is being counted."""
        with self._change:
            self._left, self._wanted = True, []
            if self._cancel_token:
                self._cancel_token.cancel()
            self._change.notify()

    def run(self) -> None:
        known = PreviewCache()
        while not self._left:
            if not self._wanted:
                known.save()
            with self._change:
                if not self._wanted:
                    self._change.wait_for(lambda: self._wanted or self._left)
                if self._left:
                    return
                data, section = self._wanted.pop(0)
                self._cancel_token = CancelToken()
            try:
                preview = known.get(data, section, self._cancel_token)
            except Cancelled:
                continue
            except Exception as error:  # noqa: BLE001 - top level of a thread: the list must show the error
                preview = Preview(error=f"cannot preview: {error_text(error)}")
            if not self._left:
                self.post(PreviewReady(data, preview))


class PreviewCache:
    """Previews by path, time, size and data settings: `$XDG_CACHE_HOME/ftbench/previews.json`.

    A missing or damaged file is an empty cache.
    """

    def __init__(self) -> None:
        self.path = cache_folder() / "previews.json"
        self.known: dict[str, Preview] = {}
        self.changed = False
        with contextlib.suppress(OSError, msgspec.DecodeError, RecursionError):
            self.known = msgspec.json.decode(read_small(self.path, MAX_CACHE_BYTES), type=dict[str, Preview])

    def get(self, data: str, section: dict[str, Any], cancel_token: CancelToken) -> Preview:
        """The cached preview, or a new one from the engine. Raises Cancelled."""
        try:
            bytes_, mark = signature(data)
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            return Preview(error=f"cannot read: {error.strerror}; check the path and its permissions", gone=gone)
        if bytes_ > MAX_BYTES:
            return Preview(note=f"{size(bytes_)}, not counted: larger than {size(MAX_BYTES)}; inspect it to count")
        key = msgspec.json.encode([__version__, mark, section]).decode()
        if key not in self.known:
            preview = request_preview(section, cancel_token)
            if preview.note:
                return preview
            self.known[key], self.changed = preview, True
        return self.known[key]

    def save(self) -> None:
        """Write the latest previews; where that fails they are counted again next time."""
        if not self.changed:
            return
        self.changed = False
        latest = dict(list(self.known.items())[-MAX_CACHED:])
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self.path, msgspec.json.encode(latest))


def request_preview(section: dict[str, Any], cancel_token: CancelToken) -> Preview:
    """Request a preview from the engine, with a timeout. Raises Cancelled where it was cancelled for another reason."""
    late = threading.Event()

    def stop() -> None:
        late.set()
        cancel_token.cancel()

    timer = threading.Timer(SECONDS, stop)
    timer.daemon = True
    timer.start()
    try:
        return msgspec.convert(ask("data.preview", {"data": section}, cancel_token=cancel_token), Preview)
    except UserError as error:
        return Preview(error=f"{error.problem} ({error.location}); {error.hint}")  # problem first: the pane truncates
    except (RunFailed, OSError) as error:
        return Preview(note=f"not counted: {error}")
    except Cancelled:
        if late.is_set():
            return Preview(note=f"not counted: took more than {SECONDS:.0f} s")
        raise
    finally:
        timer.cancel()


def signature(data: str) -> tuple[int, list[Any]]:
    """(bytes, signature) of a set; the signature changes when its files do. Raises OSError."""
    if not data.startswith("/"):
        return 0, [data]
    status = Path(data).stat()
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size, [data, status.st_mtime_ns, status.st_size]
    files: list[tuple[str, int, int]] = []  # path, modification time and bytes of each data file
    entries = 0
    for root, folders, names in os.walk(data):
        deep = Path(root).relative_to(data).parts
        folders[:] = [name for name in folders if not name.startswith(".") and len(deep) < _DEPTH]
        entries += len(folders) + len(names)
        if entries > _ENTRIES:
            break
        for name in names:
            if not name.startswith(".") and (is_data_file(name) or name.endswith(".arrow")):
                with contextlib.suppress(OSError):
                    status = Path(root, name).stat()
                    files.append((escaped(str(Path(root, name))), status.st_mtime_ns, status.st_size))
    return sum(bytes_ for _, _, bytes_ in files), [data, sorted(files)]
