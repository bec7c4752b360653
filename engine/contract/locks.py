"""Advisory file locks: who is alive, and who holds a card. The kernel drops them when a process dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from engine.contract.errors import UserError

TRIES, TRY_SECONDS = 4, 0.005


def hold(path: Path, text: str = "") -> int | None:
    """Take the lock and write `text` into the file; None where somebody else holds it.

    The lock lasts as long as the returned descriptor (not inherited by children). Raises UserError where the file
    system has no locks: without them two workers could write into one run.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        taken = _taken(descriptor)
    except OSError as error:
        os.close(descriptor)
        raise _unsupported(path, error) from error
    if not taken:
        os.close(descriptor)
        return None
    if text:
        sign(descriptor, text)
    return descriptor


def _unsupported(path: Path, error: OSError) -> UserError:
    what, do = f"files cannot be locked here: {error.strerror}", "use a file system with locks (--runs, FTBENCH_LOCKS)"
    return UserError(what, str(path), do, code="locks.unsupported")


def sign(descriptor: int, text: str) -> None:
    """Write who holds the lock into it. Raises OSError where the disk is full; the lock is held all the same."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _taken(descriptor: int) -> bool:
    """Tries more than once: whoever asks `holder` has the lock shared for a moment."""
    for attempt in range(TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(TRY_SECONDS if attempt < TRIES - 1 else 0)
    return False


def holder(path: Path) -> str | None:
    """What the holder wrote into the lock, None where nobody holds it, and where it is no lock or not ours to open."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link, which `hold` would refuse
            return None
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 4096).decode("utf-8", "replace")
    except OSError:  # a file system without locks: `hold` refuses it, so nobody holds this one
        return None
    finally:
        os.close(descriptor)
    return None


def card_lock(card: str) -> Path:
    """The lock of one card ("0", a UUID, or "cpu") on this machine, for this user.

    Under the temporary folder and not under the session's run-time folder: that one goes when the last login
    session ends, and the runs stay.
    """
    safe = "".join(character if character.isalnum() else "-" for character in card)
    return _lock_folder() / f"{socket.gethostname()}-{safe}.lock"


def card_locks() -> list[tuple[Path, str]]:
    """Every card lock that there has been on this machine, with the card's name."""
    host = f"{socket.gethostname()}-"
    locks = sorted(_lock_folder().glob("*.lock"))
    return [(path, path.stem.removeprefix(host)) for path in locks if path.name.startswith(host)]


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process of this machine at a time for one folder: others wait. For moments, not for work."""
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    path = _lock_folder() / f"{socket.gethostname()}-{name}.moment"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise _unsupported(path, error) from error
        yield
    finally:
        os.close(descriptor)


def _lock_folder() -> Path:
    base = os.environ.get("FTBENCH_LOCKS") or f"{tempfile.gettempdir()}/ftbench-{os.getuid()}"
    folder = Path(base)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        what = f"locks cannot be kept here: {error.strerror}"
        raise UserError(what, str(folder), "set FTBENCH_LOCKS to a folder of yours") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise UserError("the lock folder belongs to somebody else", str(folder), "set FTBENCH_LOCKS to one of yours")
    return folder
