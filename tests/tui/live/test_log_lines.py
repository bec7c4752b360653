"""Log lines in bounded memory, and growing raw output."""

from __future__ import annotations

import re
from pathlib import Path

from tui.live.log_lines import CUT, MAX_READ_BYTES, SKIPPED, LogLines, OutputReader


def test_lines_keep_their_numbers_when_older_ones_are_dropped() -> None:
    lines = LogLines(most=3)
    for number in range(5):
        lines.add(f"line {number}")
    assert list(lines) == ["line 2", "line 3", "line 4"] and lines.gone == 2
    assert lines.matching("LINE 3") == [(3, "line 3")]
    assert [number for number, _ in lines.matching("")] == [2, 3, 4]


def test_output_may_be_read_before_its_file_exists_and_separates_the_unfinished_line(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    output = OutputReader(path)
    assert output.read() is None
    path.write_bytes(b"one\ntwo\nthr")
    piece = output.read()
    assert piece is not None and (piece.lines, piece.unfinished) == (["one", "two"], "thr")
    assert output.read() is None
    path.write_bytes(b"one\ntwo\nthree\n")
    piece = output.read()
    assert piece is not None and (piece.lines, piece.unfinished) == (["three"], "")


def test_a_progress_bar_shows_its_last_state(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_bytes(b" 1%|\r 2%|\r 3%|\ndone\r\n 4%|\r 5%|")
    piece = OutputReader(path).read()
    assert piece is not None and piece.lines == [" 3%|", "done"] and piece.unfinished == " 5%|"


def test_only_the_complete_lines_at_the_end_of_a_huge_log_are_read(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    count = 3 * MAX_READ_BYTES // 10
    path.write_bytes(b"".join(b"%09d\n" % number for number in range(count)))
    output = OutputReader(path)
    piece = output.read()
    assert piece is not None and piece.lines[0] == SKIPPED.decode().rstrip()
    assert piece.lines[1:] == [f"{number:09}" for number in range(count - MAX_READ_BYTES // 10, count)]
    with path.open("ab") as file:
        file.write(b"more\n")
    piece = output.read()
    assert piece is not None and piece.lines == ["more"]


def test_a_truncated_log_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_bytes(b"a long first life\n")
    output = OutputReader(path)
    output.read()
    path.write_bytes(b"new\n")
    piece = output.read()
    assert piece is not None and piece.lines == ["new"]


def test_invalid_utf8_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_bytes(b"\xff\xfe broken\n" + b"x" * 10_000 + b"\n")
    piece = OutputReader(path).read()
    assert piece is not None and piece.lines[0] == "\ufffd\ufffd broken"


def test_a_very_long_line_tells_how_much_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_bytes(b"x" * 10_000 + b"\n")
    piece = OutputReader(path).read()
    assert piece is not None
    (line,) = piece.lines
    assert re.fullmatch(r"x{4000} … \[6,000 more [^]]*\]", line)


def test_a_progress_bar_longer_than_what_is_read_shows_its_last_state(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_bytes(b"first\n" + b"\r 50% of it" * (MAX_READ_BYTES // 8))
    piece = OutputReader(path).read()
    assert piece is not None and (piece.lines[1:], piece.unfinished) == ([], " 50% of it")


def test_a_line_longer_than_what_is_read_shows_its_end(tmp_path: Path) -> None:
    """Also if it is read while it grows, and after it has been completed."""
    path = tmp_path / "engine.log"
    growing = OutputReader(path)
    path.write_bytes(b"start")
    for number in range(8):
        with path.open("ab") as file:
            file.write(b"x" * (MAX_READ_BYTES // 3) + b" end %d" % number)
        piece = growing.read()
        assert piece is not None and piece.unfinished.startswith(CUT if number > 1 else "startx")
    late = OutputReader(path)
    at_once = late.read()
    assert piece is not None and at_once is not None and at_once.lines == [SKIPPED.decode().rstrip()]
    for unfinished in (piece.unfinished, at_once.unfinished):
        assert unfinished.startswith(f"{CUT}xxx") and unfinished.endswith("x end 7") and len(unfinished) < 5000
    with path.open("ab") as file:
        file.write(b"!\nnext\n")
    for reader in (growing, late):
        piece = reader.read()
        assert piece is not None and piece.lines[0].startswith(CUT) and piece.lines[0].endswith(" end 7!")
        assert (piece.lines[1:], piece.unfinished) == (["next"], "")
