"""Whatever the system refuses ends the command with one line and exit status 1."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from engine.config.errors import RunFailed
from engine.config.preset_library import effective
from engine.runs import launch, run_dir
from engine.training.guards import is_disk_full
from tui.cli.errors import at_the_edge


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR, errno.EMFILE, errno.EIO, errno.ESTALE])
def test_a_file_that_cannot_be_opened_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "/some/\x1bfile")

    with pytest.raises(SystemExit) as ended:
        at_the_edge(fail)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "file" in line and os.strerror(number) in line and "\x1b" not in line


def test_an_error_that_names_no_file_is_not_hidden(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    with pytest.raises(OSError, match="Bad file descriptor"):
        at_the_edge(fail)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_a_system_without_resources_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(SystemExit):
        at_the_edge(fail)
    assert os.strerror(number) in capsys.readouterr().err


def test_a_worker_that_cannot_be_started_is_a_failure_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    run = run_dir.create(tmp_path, "demo-lora", effective("demo-lora", None, {}))
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(RunFailed, match="cannot start a process"):
        launch.launch(run)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_known_however_a_library_says_it(number: int) -> None:
    assert is_disk_full(OSError(number, os.strerror(number)))
    assert is_disk_full(RuntimeError(f"Error while serializing: I/O error: … (os error {number})"))
    assert not is_disk_full(RuntimeError("Error while serializing: I/O error: … (os error 5)"))
