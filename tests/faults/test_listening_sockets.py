"""What listens while ftbench works: on loopback only, in folders that only the user can open, and to no other user."""

from __future__ import annotations

import contextlib
import socket
import stat
import time
from pathlib import Path

import psutil
import pytest
from command import ON_SMALL, events_of

from engine.hardware.cpu import usable_cpus
from engine.runs.run.run_dir import RunDir
from faults.worker_runs import UNPROBED, kill, start, wait_for

LISTENING = "00010000"
"""Flag of a socket in /proc/net/unix that accepts connections (__SO_ACCEPTCON)."""
RANKS = [word for setting in ("train.devices=2", "hardware.device=cpu:2") for word in ("--set", setting)]
LONG = ["train.steps=4000" if word == "train.steps=12" else word for word in [*UNPROBED, *ON_SMALL]]
pytestmark = pytest.mark.skipif(len(usable_cpus()) < 2, reason="one CPU cannot be divided")


def processes_of(run: RunDir) -> dict[psutil.Process, str]:
    """Everything that works for a run, with its name: worker, ranks, trackers, and what they started."""
    names: dict[psutil.Process, str] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            if str(run.path) in process.cmdline():
                for member in (process, *process.children(recursive=True)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        names[member] = member.name()
    return names


def tcp_listeners(process: psutil.Process) -> list[tuple[str, int]]:
    """Addresses on which a process listens; none once it has ended."""
    try:
        connections = process.net_connections("inet")
    except psutil.NoSuchProcess:
        return []
    return [
        (connection.laddr.ip, connection.laddr.port)
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    ]


def unix_listeners(process: psutil.Process) -> list[str]:
    """Names of the Unix sockets on which a process listens; an abstract one starts with @."""
    inodes = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the process or a descriptor has gone
        for entry in Path(f"/proc/{process.pid}/fd").iterdir():
            inodes.add(str(entry.readlink()).removeprefix("socket:[").removesuffix("]"))
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return [words[7] if len(words) > 7 else "@" for words in lines if words[3] == LISTENING and words[6] in inodes]


def is_private(name: str) -> bool:
    """Whether a folder on the way to a Unix socket is closed to other users."""
    return not name.startswith("@") and any(
        stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0 for folder in Path(name).parents
    )


def accepts(address: tuple[str, int]) -> bool:
    """Whether a stranger can connect. A dropped request has no answer: the kernel answers all others at once."""
    try:
        socket.create_connection(address, 0.5).close()
    except OSError:
        return False
    return True


def test_nothing_listens_to_other_users(tmp_path: Path) -> None:
    """A run on two devices, with every tracker: gloo connects the ranks, and W&B its processes."""
    run = start(tmp_path / "runs", *LONG, *RANKS, "--set", 'track.to=["tensorboard","trackio","wandb"]')
    wait_for(run, "step", step=2)
    deadline = time.monotonic() + 300
    processes = processes_of(run)
    while "wandb-core" not in processes.values():
        assert time.monotonic() < deadline and run.is_active()
        time.sleep(0.1)
        processes = processes_of(run)
    assert len(processes) >= 7
    listeners = [address for process in processes for address in tcp_listeners(process)]
    assert listeners and {address for address, _ in listeners} <= {"127.0.0.1", "::1"}
    assert not list(filter(accepts, listeners))
    assert all(is_private(name) for process in processes for name in unix_listeners(process))
    step = max(event["step"] for event in events_of(run.path) if event["type"] == "step")
    wait_for(run, "step", step=step + 2)  # the strangers ended nothing
    kill(run)
