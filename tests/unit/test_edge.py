"""Whatever cannot be opened ends the command with one line and exit status 1."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tui.edge import at_the_edge


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
