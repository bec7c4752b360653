"""Advisory file locks: who is alive, and who holds a card. The kernel drops them when a process dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import pwd
import re
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from engine.config.errors import UserError

TRIES, TRY_SECONDS = 4, 0.005
READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
"""A pipe in the place of a lock must not keep us waiting for its writer."""


def hold(path: Path, text: str = "") -> int | None:
    """Take the lock and write `text` into the file; None where another process holds it.

    The lock lasts as long as the returned descriptor (not inherited by children). Raises UserError where the file
    cannot be opened, and where the file system has no locks: without them two workers could write into one run.
    """
    while True:
        descriptor = _opened(path)
        try:
            taken = _taken(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise _unsupported(path, error) from error
        if not taken:
            os.close(descriptor)
            return None
        if _is_at(path, descriptor):
            break
        os.close(descriptor)  # `remove_stale` has unlinked it since it was opened: another process may lock a new one
    if text:
        sign(descriptor, text)
    return descriptor


def _unsupported(path: Path, error: OSError) -> UserError:
    what, do = f"files cannot be locked here: {error.strerror}", "use a file system with locks (--runs, FTBENCH_LOCKS)"
    return UserError(what, str(path), do, code="locks.unsupported")


def sign(descriptor: int, text: str) -> None:
    """Write who holds the lock into it. Raises OSError where the disk is full; the lock is held all the same."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, os.fsencode(text), 0)


def _opened(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        if _is_regular(descriptor):
            return descriptor
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "not a regular file")
    except (PermissionError, IsADirectoryError) as error:
        what = f"this lock cannot be opened: {error.strerror}"
        raise UserError(what, str(path), "delete it, or set FTBENCH_LOCKS to another folder", "locks.file") from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        what, do = "this lock is a symbolic link", "delete it: ftbench makes no links there"
        raise UserError(what, str(path), do, "locks.file") from error


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one of that name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    return False


def _is_regular(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def pid_of(text: str | None) -> int | None:
    """The process id in a lock; None where there is none, as in a damaged file: 0 and 1 are no process of ours."""
    return int(text) if text and text != "1" and re.fullmatch("[1-9][0-9]{0,8}", text) else None


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock on a file or folder."""
    try:
        descriptor = os.open(path, READING)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks: nothing there is held
        return False
    finally:
        os.close(descriptor)
    return False


def remove_stale(path: Path) -> bool:
    """Unlink a lock that no process holds; False where one does. Nobody can lock the unlinked file: see `hold`."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(path, descriptor):
            path.unlink()
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


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
        descriptor = os.open(path, READING)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link, which `hold` would refuse
            return None
        raise
    try:
        if _is_regular(descriptor):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.fsdecode(os.read(descriptor, 4096))
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
    return lock_folder() / f"{socket.gethostname()}-{safe}.lock"


def card_locks() -> list[tuple[Path, str]]:
    """Every card lock that there has been on this machine, with the card's name."""
    host = f"{socket.gethostname()}-"
    locks = sorted(lock_folder().glob("*.lock"))
    return [(path, path.stem.removeprefix(host)) for path in locks if path.name.startswith(host)]


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process of this machine at a time for one folder: others wait. For moments, not for work."""
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    path = lock_folder() / f"{socket.gethostname()}-{name}.moment"
    while True:
        descriptor = _opened(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            os.close(descriptor)
            raise _unsupported(path, error) from error
        if _is_at(path, descriptor):
            break
        os.close(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for it makes a new one
        os.close(descriptor)


def lock_folder() -> Path:
    """Where this user's locks are kept, made where there is none yet: the same for every runs home and login session.

    Not below $TMPDIR: where each login session has its own, two sessions would not see each other's runs.

    Raises UserError, before anything is created, where it is not this user's own folder or cannot be written: another
    user could hold our locks or redirect what we write.
    """
    folder = Path(os.environ.get("FTBENCH_LOCKS") or f"/tmp/ftbench-{os.getuid()}")
    try:
        if not os.path.lexists(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise _unusable(f"the lock folder cannot be made: {error.strerror}", folder) from error
    if stat.S_ISLNK(status.st_mode):
        raise _unusable("the lock folder is a symbolic link", folder)
    if not stat.S_ISDIR(status.st_mode):
        raise _unusable("the lock folder is a file", folder)
    if status.st_uid != os.getuid():
        raise _unusable(f"the lock folder belongs to another user ({owner(status.st_uid)})", folder)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise _unusable("the lock folder is not writable", folder)
    return folder


def owner(uid: int) -> str:
    """The user's name, or `uid 1234` where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _unusable(what: str, folder: Path) -> UserError:
    return UserError(what, str(folder), "set FTBENCH_LOCKS to a folder of your own", "locks.folder")
