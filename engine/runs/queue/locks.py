"""Advisory file locks: which workers are alive, and which run uses a device. The kernel releases them at process exit.

filelock (4.3) does not replace this module: it cannot tell who holds a lock without acquiring it exclusively, which
could make a starting worker fail. On file systems without flock it falls back to marker files that outlive a killed
process, where a run must be refused.
"""

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
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.config.errors import UserError

TRIES, TRY_SECONDS = 4, 0.005
READER_SECONDS = 30.0
"""How long `acquire` waits for readers of the lock: on a busy machine one can be suspended while it has a shared
lock."""
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
"""O_NONBLOCK: opening a named pipe in place of a lock must not block until it has a writer."""


def acquire(path: Path, text: str = "") -> int | None:
    """Acquire the lock and write `text` into the file; None if another process holds it.

    The lock is held until the returned descriptor is closed (it is not inherited by children). Raises UserError if the
    file cannot be opened, and if the file system has no locks: without them two workers could write to one run.
    """
    descriptor = _locked_file(path, _taken)
    if descriptor is not None and text:
        write_holder(descriptor, text)
    return descriptor


def _locked_file(path: Path, lock: Callable[[int], bool]) -> int | None:
    """The descriptor of the file, locked by `lock`; None if that returns false."""
    while True:
        descriptor = _opened(path)
        try:
            is_locked = lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            problem = f"file locks are unsupported: {error.strerror}"
            hint = "use a file system with locks (--runs, FTBENCH_LOCKS)"
            raise UserError(problem, str(path), hint, code="locks.unsupported") from error
        if is_locked and _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)
        if not is_locked:
            return None  # else it was unlinked after it was opened: another process may lock a new file


def write_holder(descriptor: int, text: str) -> None:
    """Write the holder into the lock file. Raises OSError on a full disk; the lock stays held."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, os.fsencode(text), 0)


def _opened(path: Path) -> int:
    reason = "not a regular file"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        if _is_regular(descriptor):
            return descriptor
        os.close(descriptor)
    except (PermissionError, IsADirectoryError) as error:
        reason = str(error.strerror)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    hint = "delete it, or set FTBENCH_LOCKS to another folder"
    raise UserError(f"cannot open the lock file: {reason}", str(path), hint, "locks.file")


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the path still refers to the open file."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    return False


def _is_regular(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def pid_of(text: str | None) -> int | None:
    """The process id in a lock file; None if it contains no valid one. 0 and 1 are never a worker."""
    return int(text) if text and text != "1" and re.fullmatch("[1-9][0-9]{0,8}", text) else None


def is_in_use(folder: Path) -> bool:
    """Whether a process reads a run's directory (`files.used_folder`)."""
    return _is_refused(folder, fcntl.LOCK_EX)


def is_locked(path: Path) -> bool:
    """Whether a process holds an exclusive lock on a file or folder."""
    return _is_refused(path, fcntl.LOCK_SH)


def _is_refused(path: Path, kind: int) -> bool:
    """Whether another process has a lock that excludes this kind."""
    try:
        descriptor = os.open(path, READ_FLAGS)
    except OSError:
        return False
    try:
        return not _locked(descriptor, kind)
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)


def remove_stale(path: Path) -> bool:
    """Delete a lock file that no process holds; False if one does. `acquire` rejects a lock on a deleted file."""
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
    """Try to lock. False if another process has an exclusive lock in TRIES tries; shared ones, which `holder` and
    `is_locked` have for a moment, do not count.
    """
    refused, deadline = 0, time.monotonic() + READER_SECONDS
    while refused < TRIES and time.monotonic() < deadline:
        if _locked(descriptor, fcntl.LOCK_EX):
            return True
        if _locked(descriptor, fcntl.LOCK_SH):  # so only readers have one
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        else:
            refused += 1
        time.sleep(TRY_SECONDS)
    return False


def _wait_for_lock(descriptor: int) -> bool:
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return True


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder(path: Path) -> str | None:
    """The text that the holder wrote; None if the lock is free, not a regular file or not readable."""
    try:
        descriptor = os.open(path, READ_FLAGS)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # a symbolic link, which `acquire` refuses
            return None
        raise
    try:
        if _is_regular(descriptor):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return os.fsdecode(os.read(descriptor, 4096))
        except OSError as error:
            error.filename = str(path)
            raise
    except OSError:  # a file system without locks, where `acquire` refuses to lock
        return None
    finally:
        os.close(descriptor)
    return None


def device_lock(device: str) -> Path:
    """The lock file of one device ("0", a UUID, or "cpu") of this machine, for this user.

    In the temporary folder instead of $XDG_RUNTIME_DIR, which is deleted when the last login session ends while runs
    continue.
    """
    safe = "".join(character if character.isalnum() else "-" for character in device)
    return lock_folder() / f"{socket.gethostname()}-{safe}.lock"


def device_locks() -> list[tuple[Path, str]]:
    """All device lock files of this machine, with the device's name."""
    host = f"{socket.gethostname()}-"
    locks = sorted(lock_folder().glob("*.lock"))
    return [(path, path.stem.removeprefix(host)) for path in locks if path.name.startswith(host)]


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Mutual exclusion between processes of this machine for one folder. Blocks; for short critical sections."""
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    path = lock_folder() / f"{socket.gethostname()}-{name}.mutex"
    descriptor = _locked_file(path, _wait_for_lock)
    assert descriptor is not None  # it waits
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while the lock is held: a waiting process then creates a new file
        os.close(descriptor)


def lock_folder() -> Path:
    """The folder of this user's lock files, created if missing: the same for every runs home and login session.

    Not below $TMPDIR: if each login session has its own, two sessions would not see each other's runs.

    Raises UserError, before anything is created, if it belongs to another user or is not writable: another user could
    hold our locks or redirect our writes.
    """
    folder = Path(os.environ.get("FTBENCH_LOCKS") or f"/tmp/ftbench-{os.getuid()}")
    try:
        if not os.path.lexists(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise _unusable(f"cannot create the lock folder: {error.strerror}", folder) from error
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
    """The user's name, or `uid 1234` if the user has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _unusable(problem: str, folder: Path) -> UserError:
    return UserError(problem, str(folder), "set FTBENCH_LOCKS to a folder that you own", "locks.folder")
