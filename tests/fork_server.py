"""Fork server: a process that has imported torch, transformers, PEFT and ftbench, and forks for each command.

Importing them takes about half of the CPU time of a short run. `forked.ForkedProcess` is its client, and takes the
place of `subprocess.Popen` in the commands that are forked here, so that their workers and requests are forks as well.
Each command is still a process with its own id, session, files and signals; only the interpreter's start and the
imports are not repeated. Tests of these use `command.ftbench`.

Not the fork server of `multiprocessing`: a process waits at its exit for those that it has started with it, and a
worker has to outlive the command that started it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass, field
from typing import Any, TextIO
from unittest import mock

import pytest
from forked import MAX_REQUEST, ForkedProcess, fork_processes

from engine.config.method_specs import method_specs
from engine.methods.library_imports import import_libraries
from tui.output.console import console

PRELOADED = (
    "engine.worker.main",
    "engine.ladder.pipeline",
    "engine.export.artifact_check",
    "engine.methods.lora",
    "engine.methods.qlora",
    "engine.methods.full",
    "engine.memory.dry_run.plan",
    "tui.cli.main",
    "tui.cli.run",
    "matplotlib.figure",  # of reports of ladders
    "pandas",  # of datasets
    "peft.tuners.lora.bnb",
    "rensa",  # the signatures of near duplicates
    "torch._dynamo.convert_frame",  # a dry run decomposes operators with the compiler's tables
    "transformers.models.llama.modeling_llama",
    "typer._adapters",
)
SERVERS = ("engine.worker.rpc_server", "engine.extensions.chat.chat_server")
INHERITED = ("stdin", "stdout", "stderr", "status")
"""Descriptors that a request carries, in this order; the exit status is written to the last."""


@dataclass
class Server:
    """Accepts requests until its stdin is closed."""

    listener: socket.socket
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    children: dict[int, tuple[int, int]] = field(default_factory=dict)
    """pidfd -> process id and the descriptor that its exit status is written to."""

    def serve(self) -> None:
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(0, selectors.EVENT_READ)
        while True:
            for key, _ in self.selector.select():
                if key.fd == 0:
                    return
                if key.fd in self.children:
                    self._reap(key.fd)
                else:
                    self._fork()

    def _fork(self) -> None:
        connection, _ = self.listener.accept()
        content, descriptors, _, _ = socket.recv_fds(connection, MAX_REQUEST, len(INHERITED))
        child = os.fork()
        if not child:
            for pidfd, (_, status) in self.children.items():
                os.close(pidfd)
                os.close(status)
            os.close(connection.detach())
            os.close(self.listener.detach())
            self.selector.close()
            os.close(descriptors.pop())
            run_command(json.loads(content), descriptors)
        for descriptor in descriptors[:-1]:
            os.close(descriptor)
        pidfd = os.pidfd_open(child)
        self.children[pidfd] = (child, descriptors[-1])
        self.selector.register(pidfd, selectors.EVENT_READ)
        with contextlib.suppress(OSError):  # the client was killed
            connection.send(str(child).encode())
        connection.close()

    def _reap(self, pidfd: int) -> None:
        self.selector.unregister(pidfd)
        child, status = self.children.pop(pidfd)
        _, waited = os.waitpid(child, 0)
        with contextlib.suppress(BrokenPipeError):
            os.write(status, str(os.waitstatus_to_exitcode(waited)).encode())
        os.close(pidfd)
        os.close(status)


class ForkedChild(ForkedProcess):
    """The part of `subprocess.Popen` that ranks are started with: a fork of the process that starts it.

    They end with their parent, which for a fork of the server would be the server.
    """

    pid: int

    def _fork(self, request: dict[str, Any], streams: list[int]) -> None:
        self.pid = os.fork()
        if self.pid:
            return
        for number, copy in enumerate([os.dup(stream) for stream in streams]):
            os.dup2(copy, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        run_command(request, [])

    def poll(self) -> int | None:
        """The exit status, None while the process runs."""
        with self._lock:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises TimeoutExpired."""
        if self.poll() is None:
            descriptor = os.pidfd_open(self.pid)
            select.select([descriptor], [], [], timeout)
            os.close(descriptor)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return status


def run_command(request: dict[str, Any], descriptors: list[int]) -> None:
    """Run a command in this fork, with the descriptors as its streams; does not return."""
    status = 1
    try:
        if request["new_session"]:
            os.setsid()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(request["cwd"])
        if request["umask"] >= 0:
            os.umask(request["umask"])
        os.environ.clear()
        os.environ.update(request["env"])
        if folders := os.environ.get("PYTHONPATH"):  # of plugins
            sys.path[:0] = folders.split(os.pathsep)
            method_specs.cache_clear()
        sys.stdout, sys.stderr = opened(1, sys.stdout), opened(2, sys.stderr)
        console._color_system = console._detect_color_system()  # Rich looked for a terminal when it was imported
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = run_module(request["module"], request["arguments"])
    except Exception:  # noqa: BLE001 - printed as the interpreter does
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def opened(descriptor: int, former: TextIO) -> TextIO:
    """A stream as the interpreter opens it at its start: it sees whether the descriptor is a terminal and can seek."""
    unbuffered = "PYTHONUNBUFFERED" in os.environ
    return io.TextIOWrapper(
        open(descriptor, "wb", buffering=0 if unbuffered else -1, closefd=False),
        encoding=os.environ.get("PYTHONIOENCODING", former.encoding),
        errors=former.errors,
        line_buffering=descriptor == 2 or os.isatty(descriptor),
        write_through=unbuffered,
    )


def run_module(module: str, arguments: list[str]) -> int:
    """Run as `python -m MODULE ARGUMENTS` does, or as the console script `ftbench`; returns the exit status."""
    sys.argv = [module, *arguments]
    try:
        if module == "ftbench":
            from tui.start import main

            main()
        else:
            if module in SERVERS:  # they end when their parent does, which is this server instead of the client
                sys.argv[-1] = str(os.getppid())
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    return 0


def preload() -> None:
    """Import what commands need. The processes that they start are forked as well."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, MPLCONFIGDIR=folder):
        # matplotlib writes there: not into the folders of the test that needs the server first
        import_libraries()
        for module in PRELOADED:
            importlib.import_module(module)
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("llama")  # compiles a thousand patterns of all families
    patch = pytest.MonkeyPatch()
    fork_processes(patch)
    patch.setattr(subprocess_handler, "Popen", ForkedChild)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)  # of runpy
    preload()
    gc.collect()
    gc.freeze()  # the collector of a fork would touch, and so copy, all imported modules
    Server(socket.socket(fileno=int(sys.argv[1]))).serve()
