"""Lines in bounded memory, and raw output as it grows."""

from __future__ import annotations

from pathlib import Path

from tui.live.log_lines import TAIL, Lines, Output


def test_lines_keep_their_numbers_when_older_ones_go() -> None:
    lines = Lines(most=3)
    for number in range(5):
        lines.add(f"line {number}")
    assert list(lines) == ["line 2", "line 3", "line 4"] and lines.gone == 2
    assert lines.holding("LINE 3") == [(3, "line 3")]
    assert [number for number, _ in lines.holding("")] == [2, 3, 4]


def test_passing_over_lines_lets_those_before_go_too() -> None:
    lines = Lines(most=10)
    lines.add("first")
    lines.skip(100)
    lines.add("after")
    assert list(lines) == ["after"] and lines.gone == 101


def test_output_begins_before_its_file_and_holds_back_what_is_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    output = Output(path)
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
    piece = Output(path).read()
    assert piece is not None and piece.lines == [" 3%|", "done"] and piece.unfinished == " 5%|"


def test_of_a_huge_log_the_end_is_read_and_the_rest_counted(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    count = 3 * TAIL // 8
    path.write_bytes(b"".join(b"%07d\n" % number for number in range(count)))
    piece = Output(path).read()
    assert piece is not None
    assert piece.skipped + len(piece.lines) == count
    assert piece.lines[-1] == f"{count - 1:07}" and len(piece.lines) * 8 == TAIL


def test_a_log_that_began_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_bytes(b"a long first life\n")
    output = Output(path)
    output.read()
    path.write_bytes(b"new\n")
    piece = output.read()
    assert piece is not None and piece.lines == ["new"]


def test_bytes_that_are_no_text_are_shown_as_such(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_bytes(b"\xff\xfe broken\n" + b"x" * 10_000 + b"\n")
    piece = Output(path).read()
    assert piece is not None and piece.lines[0] == "\ufffd\ufffd broken"


def test_a_very_long_line_says_how_much_of_it_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_bytes(b"x" * 10_000 + b"\nnext\n" + b"y" * (2 * TAIL))
    piece = Output(path).read()  # a backlog: only its last TAIL bytes are read
    assert piece is not None and piece.unfinished.endswith(f"[{2 * TAIL - 4000:,} more characters not shown]")
    path.write_bytes(b"x" * 10_000 + b"\n")
    piece = Output(path).read()
    assert piece is not None
    assert piece.lines == [f"{'x' * 4000} … [6,000 more characters not shown]"]
