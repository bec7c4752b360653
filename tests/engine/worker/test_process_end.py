"""A process that ends without freeing its modules loses nothing that Python's own end would have done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

END = "from engine.worker.process_end import end_process\n"
FREED = "class Freed:\n    def __del__(self): print('freed')\n_kept = Freed()\n"
"""An object of a module, which Python frees when the process ends as usual."""


def ended(body: str, folder: Path) -> tuple[int, str]:
    """The exit status of a program, and what it wrote to a file, as a worker does: block by block."""
    program, out = folder / "program.py", folder / "out"
    program.write_text(END + FREED + body)
    with out.open("w") as file:
        done = subprocess.run([sys.executable, str(program)], stdout=file, check=False)
    return done.returncode, out.read_text()


@pytest.mark.parametrize("status", [0, 1, 2])
def test_output_and_exit_functions_are_not_lost(status: int, tmp_path: Path) -> None:
    body = f"import atexit\natexit.register(print, 'at exit')\nprint('text')\nend_process({status})\n"
    assert ended(body, tmp_path) == (status, "text\nat exit\n")


@pytest.mark.parametrize(
    "running",
    [
        "threading.Thread(target=late).start()",
        "multiprocessing.get_context('fork').Process(target=late).start()",
    ],
)
def test_what_still_runs_is_waited_for(running: str, tmp_path: Path) -> None:
    late = "import multiprocessing, os, threading, time\ndef late():\n    time.sleep(0.3)\n    os.write(1, b'late ')\n"
    status, text = ended(f"{late}{running}\nend_process(2)\n", tmp_path)
    assert status == 2 and text.startswith("late ") and text.endswith("freed\n")


def test_a_full_disk_does_not_change_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # the text is written at the end
    program = tmp_path / "program.py"
    program.write_text(f"{END}print('text')\nend_process(2)\n")
    with Path("/dev/full").open("w") as full:
        assert subprocess.run([sys.executable, str(program)], stdout=full, check=False).returncode == 2
