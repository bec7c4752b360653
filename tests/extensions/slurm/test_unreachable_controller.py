"""Slurm's real commands report an unreachable controller at every moment of a request at which it can die."""

from __future__ import annotations

import contextlib
import getpass
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_sandbox import CONF, IS_INSTALLED

from engine.extensions.slurm.slurm import Unreachable, command

pytestmark = pytest.mark.skipif(not IS_INSTALLED, reason="Slurm is not installed")


def closes(peer: socket.socket) -> None:
    peer.close()


def resets(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def closes_after_the_request(peer: socket.socket) -> None:
    peer.recv(65536)
    peer.close()


def resets_after_the_request(peer: socket.socket) -> None:
    peer.recv(65536)
    resets(peer)


def dies_within_its_answer(peer: socket.socket) -> None:
    peer.recv(65536)
    peer.sendall(struct.pack(">I", 1000) + b"x" * 10)  # the length of a message, and less than that
    peer.close()


def is_silent(peer: socket.socket) -> None:
    peer.recv(65536)
    peer.settimeout(30)
    with contextlib.suppress(OSError):
        peer.recv(1)  # until the command gives up
    peer.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.mark.parametrize("words", [("squeue",), ("scancel", "17"), ("scontrol", "show", "job", "17")], ids=" ".join)
@pytest.mark.parametrize(
    "behavior",
    [closes, resets, closes_after_the_request, resets_after_the_request, dies_within_its_answer, is_silent],
)
def test_a_controller_that_dies_at_any_moment_is_unreachable(
    behavior: Callable[[socket.socket], None],
    words: tuple[str, ...],
    listener: socket.socket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, port = socket.gethostname(), listener.getsockname()[1]
    values = {"host": host, "user": getpass.getuser(), "port": port, "folder": tmp_path}
    node = f"NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=1 CPUs=1"
    conf = CONF.format(**values, nodes=node).replace("MessageTimeout=10", "MessageTimeout=2")
    (tmp_path / "slurm.conf").write_text(conf)
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    threading.Thread(target=_serve, args=(listener, behavior), daemon=True).start()
    with pytest.raises(Unreachable) as raised:
        command(*words)
    assert raised.value.code == "slurm.unreachable"


def _serve(listener: socket.socket, behavior: Callable[[socket.socket], None]) -> None:
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:  # closed: the test has ended
            return
        try:
            behavior(peer)
        except OSError:  # the command has ended
            peer.close()
