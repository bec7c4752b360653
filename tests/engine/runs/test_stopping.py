"""Signals that request a stop, and SIGHUP, which is ignored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

LISTENER = """
import signal, sys
from engine.runs.stopping import StopRequest, StopRequested
stopping = StopRequest()
stopping.listen()
print("listening", flush=True)
try:
    while True:
        stopping.check()
        signal.sigtimedwait([], 0.01)
except StopRequested:
    print("stopping", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_requests_a_stop_even_if_the_parent_ignored_it(number: signal.Signals) -> None:
    def ignore() -> None:
        signal.signal(number, signal.SIG_IGN)

    process = subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, text=True, preexec_fn=ignore)
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    os.kill(process.pid, signal.SIGHUP)
    os.kill(process.pid, number)
    assert process.stdout.read() == "stopping\n" and process.wait() == 0
