"""What the data list says of each set: counted by the engine in the background, one set at a time, and remembered."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import platformdirs
from msgspec import Struct, field
from textual.message import Message

from engine import __version__
from engine.contract.ask import Leaving, Left, ask
from engine.contract.errors import Notice, RunFailed, UserError
from engine.contract.files import read_small, write_atomically
from engine.contract.library import is_data_file
from engine.contract.text import escaped
from tui.show import size

LARGEST = 64 << 20
"""Bytes up to which a set is counted unasked: as small rows (80 bytes) they take the counting process 530 MiB."""
SECONDS = 30.0
"""After these a set is left uncounted: on a slow network disk it would hold up all others."""
REMEMBERED = 500
LARGEST_MEMORY = 64 << 20
"""Bytes of the file of glances that are read."""
_DEPTH, _ENTRIES = 3, 10_000
"""As deep and as many as the engine reads of a folder."""


class Glance(Struct, frozen=True):
    """One set at a first look."""

    rows: dict[str, int] = field(default_factory=dict)
    """By split, as they lie in the files; empty where nobody counted."""
    format: str = ""
    why: str = ""
    unusable: int = 0
    """Rows that nothing can be learnt from."""
    kinds: dict[str, Any] = field(default_factory=dict)
    warnings: list[Notice] = field(default_factory=list)
    error: str = ""
    """Why it cannot be read or understood, with what to do."""
    note: str = ""
    """Why it was not counted."""
    gone: bool = False
    """There is no such file."""

    @property
    def problems(self) -> list[str]:
        """Everything found, one sentence each."""
        bad = [f"{found['rows']:,} rows {kind}: {found['where'][0]}" for kind, found in self.kinds.items()]
        return [*([self.error] if self.error else []), *bad, *(notice.text for notice in self.warnings)]


@dataclass
class Glanced(Message):
    """A set has been looked at."""

    data: str
    glance: Glance


class Glancer(threading.Thread):
    """Looks at the sets it is given, the first first; touches no widget."""

    def __init__(self, post: Callable[[Message], object]) -> None:
        super().__init__(daemon=True, name="glancer")
        self.post = post
        self._wanted: list[tuple[str, dict[str, Any]]] = []
        self._change = threading.Condition()
        self._leaving: Leaving | None = None
        self._left = False

    def want(self, sets: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Look at these (data id, data section of the configuration) and no longer at what was wanted before."""
        with self._change:
            self._wanted = list(sets)
            self._change.notify()

    def leave(self) -> None:
        """Stop, also in the middle of a set."""
        with self._change:
            self._left, self._wanted = True, []
            if self._leaving:
                self._leaving.leave()
            self._change.notify()

    def run(self) -> None:
        known = Memory()
        while not self._left:
            if not self._wanted:
                known.save()
            with self._change:
                if not self._wanted:
                    self._change.wait_for(lambda: self._wanted or self._left)
                if self._left:
                    return
                data, section = self._wanted.pop(0)
                self._leaving = Leaving()
            with contextlib.suppress(Left):
                glance = self._look(known, data, section, self._leaving)
                if not self._left:
                    self.post(Glanced(data, glance))

    @staticmethod
    def _look(known: Memory, data: str, section: dict[str, Any], leaving: Leaving) -> Glance:
        """What is found, or why nothing is. Raises Left."""
        try:
            return known.look(data, section, leaving)
        except Left:
            raise
        except Exception as error:  # noqa: BLE001 - the edge of a thread: the list must hear of it
            return Glance(error=f"cannot be looked at: {type(error).__name__}: {error}")


class Memory:
    """Glances by path, time, size and what the configuration says of the data: `$XDG_CACHE_HOME/ftbench/glances.json`.

    A missing or damaged file is an empty memory.
    """

    def __init__(self) -> None:
        self.path = Path(platformdirs.user_cache_dir("ftbench")) / "glances.json"
        self.known: dict[str, Glance] = {}
        self.changed = False
        with contextlib.suppress(OSError, msgspec.DecodeError, RecursionError):
            self.known = msgspec.json.decode(read_small(self.path, LARGEST_MEMORY), type=dict[str, Glance])

    def look(self, data: str, section: dict[str, Any], leaving: Leaving) -> Glance:
        """What is known of the set, or else what the engine says. Raises Left."""
        try:
            bytes_, mark = signature(data)
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            return Glance(error=f"cannot be read: {error.strerror}; check the path and its permissions", gone=gone)
        if bytes_ > LARGEST:
            return Glance(note=f"{size(bytes_)}, not counted: more than {size(LARGEST)}")
        key = msgspec.json.encode([__version__, mark, section]).decode()
        if key not in self.known:
            glance = counted(section, leaving)
            if glance.note:
                return glance
            self.known[key], self.changed = glance, True
        return self.known[key]

    def save(self) -> None:
        """The newest glances; where they cannot be written they are counted again next time."""
        if not self.changed:
            return
        self.changed = False
        newest = dict(list(self.known.items())[-REMEMBERED:])
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self.path, msgspec.json.encode(newest))


def counted(section: dict[str, Any], leaving: Leaving) -> Glance:
    """By the engine, within SECONDS. Raises Left where it was left for another reason."""
    late = threading.Event()

    def stop() -> None:
        late.set()
        leaving.leave()

    timer = threading.Timer(SECONDS, stop)
    timer.daemon = True
    timer.start()
    try:
        return msgspec.convert(ask("data.glance", {"data": section}, leaving=leaving), Glance)
    except UserError as error:
        return Glance(error=f"{error.what} ({error.where}); {error.do}")  # what it is first: there is little room
    except (RunFailed, OSError) as error:
        return Glance(note=f"not counted: {error}")
    except Left:
        if late.is_set():
            return Glance(note=f"not counted: took more than {SECONDS:.0f} s")
        raise
    finally:
        timer.cancel()


def signature(data: str) -> tuple[int, list[Any]]:
    """Bytes of a set, and what changes when its files do. An embedded set has neither. Raises OSError."""
    if not data.startswith("/"):
        return 0, [data]
    status = Path(data).stat()
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size, [data, status.st_mtime_ns, status.st_size]
    files = sorted(_files(data))
    return sum(bytes_ for _, _, bytes_ in files), [data, files]


def _files(folder: str) -> Iterator[tuple[str, int, int]]:
    """(path, time, bytes) of the data files that the engine would read."""
    seen = 0
    for root, folders, names in os.walk(folder):
        deep = Path(root).relative_to(folder).parts
        folders[:] = [name for name in folders if not name.startswith(".") and len(deep) < _DEPTH]
        seen += len(folders) + len(names)
        if seen > _ENTRIES:
            return
        for name in names:
            if not name.startswith(".") and is_data_file(name):
                with contextlib.suppress(OSError):
                    status = Path(root, name).stat()
                    yield escaped(str(Path(root, name))), status.st_mtime_ns, status.st_size
