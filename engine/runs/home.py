"""The runs home: one directory per user with all runs and ladders, found from every working directory."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from engine.config.errors import Notice, UserError
from engine.config.files import working_directory
from engine.config.home import configured_home, runs_folder

VARIABLE = "FTBENCH_RUNS"
MIN_FREE_BYTES = 1 << 20
"""Free disk space below which no run is created: its configuration, log and result need about this much."""
MOUNTS = Path("/proc/self/mountinfo")
NETWORK_FILE_SYSTEMS = (
    *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"),
    *("ocfs2", "orangefs", "pvfs2", "smb3", "smbfs"),
)
"""Types in mountinfo(5) whose locks may not be shared between hosts, or may not be released when a host dies."""
NETWORK_FUSE = ("ceph", "gcsfuse", "gcsfs", "glusterfs", "goofys", "juicefs", "rclone", "s3fs", "seaweedfs", "sshfs")
"""Subtypes of `fuse.` that are on a network."""
TEMPORARY_FILE_SYSTEMS = ("overlay", "overlayfs", "aufs", "tmpfs", "ramfs")
"""What a container's root and memory disks are: on a rented machine they are lost when it stops."""
DISK_FILE_SYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "fuse", "virtiofs", "fuse.mfs")
SYSTEM_FOLDERS = ("/proc", "/sys", "/dev", "/run", "/boot", "/etc", "/usr", "/var/lib", "/tmp")
CHOOSE_ANOTHER = "choose another directory with --runs DIR, FTBENCH_RUNS or `ftbench home DIR`"


def runs_home(given: Path | None = None) -> Path:
    """The directory of runs: `given` (--runs), else $FTBENCH_RUNS, else that of the home in config.toml or of the user.

    Symbolic links are resolved: the device queue compares paths. Raises UserError where config.toml sets a home and is
    invalid: another home would hide the user's runs.
    """
    chosen = given or Path(os.environ.get(VARIABLE) or runs_folder())
    return Path(os.path.realpath(chosen if chosen.is_absolute() else working_directory() / chosen))


def check_home(home: Path) -> None:
    """Raise UserError where no run can be created in `home`: not writable, or almost no free disk space."""
    existing = nearest_existing(home)
    if not existing.is_dir():
        raise UserError("the runs home is not a directory", str(existing), CHOOSE_ANOTHER, "runs.not_writable")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError("the runs home is not writable", str(existing), CHOOSE_ANOTHER, "runs.not_writable")
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        problem = f"the runs home has {free / 1024:,.0f} KiB of free disk space, and a run needs at least 1 MiB"
        raise UserError(problem, str(home), f"free some space, or {CHOOSE_ANOTHER}", "runs.disk_full")


def nearest_existing(path: Path) -> Path:
    """The path itself, or its nearest parent that exists."""
    return next(parent for parent in (path, *path.parents) if parent.exists())


def home_warnings(home: Path) -> list[Notice]:
    """Warnings about a home that can be used, but not trusted completely."""
    if kind := network_file_system(home):
        text = (
            f"the runs home {tilde(home)} is on a network file system ({kind}), where file locks are unreliable: "
            "an active run may be reported as died, and two workers may write to one run directory; "
            "choose a local disk with `ftbench home DIR`"
        )
        return [Notice("runs.network_filesystem", text)]
    if os.environ.get(VARIABLE) or configured_home():
        return []  # somebody chose it
    kind = file_system(home)
    if kind not in TEMPORARY_FILE_SYSTEMS:
        return []
    what = f"the runs home {tilde(home)} is on the container's own disk ({kind}), which is deleted with the container"
    where = persistent_disk()
    hint = f"choose another disk with `ftbench home {where / 'ftbench' if where else 'DIR'}`"
    return [Notice("runs.temporary_disk", f"{what}: {hint}")]


def file_system(path: Path) -> str:
    """The type of the file system that a path is on (`ext4`, `overlay`), '' where it is unknown.

    It is that of the longest mount point above the path; of several mounts at it the last one.
    """
    real, kind, length = os.path.realpath(path), "", -1
    for point, mounted in _mount_points():
        above = real == point or real.startswith(point.rstrip("/") + "/")
        if above and len(point) >= length:
            kind, length = mounted, len(point)
    return kind


def persistent_disk() -> Path | None:
    """The writable mount of a disk with the most free space, such as /workspace on a rented machine."""
    mounts: list[tuple[int, Path]] = []
    for point, kind in _mount_points():
        path = Path(point)
        own = kind in DISK_FILE_SYSTEMS or _is_network(kind)
        if own and path.is_dir() and not point.startswith(SYSTEM_FOLDERS) and os.access(path, os.W_OK | os.X_OK):
            mounts.append((shutil.disk_usage(path).free, path))
    return max(mounts, default=(0, None))[1]


def network_file_system(path: Path) -> str:
    """The type of the network file system that a path is on (`nfs4`), '' for a local one or where it is unknown."""
    kind = file_system(path)
    return kind if _is_network(kind) else ""


def _is_network(kind: str) -> bool:
    main, _, subtype = kind.partition(".")
    return main in NETWORK_FILE_SYSTEMS or (main == "fuse" and subtype in NETWORK_FUSE)


def _mount_points() -> Iterator[tuple[str, str]]:
    """Directory and type of each mount, in the order in which they were made; none where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in MOUNTS.read_text("utf-8", "surrogateescape").splitlines():
            mount, _, source = line.partition(" - ")
            fields = mount.split(" ")
            if len(fields) >= 5:
                point = fields[4]
                for code in ("040", "011", "012", "134"):  # space, tab, newline and backslash in mountinfo(5)
                    point = point.replace(f"\\{code}", chr(int(code, 8)))
                yield point, source.partition(" ")[0]


def tilde(path: Path | str) -> str:
    """A path as a shell user would write it: `~/project` for a directory below the user's home directory."""
    text, user = str(path), os.path.expanduser("~").rstrip("/")  # noqa: PTH111 - Path.home() raises where it is unknown
    return f"~{text.removeprefix(user)}" if user and (text == user or text.startswith(f"{user}/")) else text
