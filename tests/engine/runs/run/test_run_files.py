"""Events, followers, locks and visible text."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import regex
from message_parts import figures

from engine.config import preset_library
from engine.config.errors import UserError
from engine.config.text import shortened, visible
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.event_log import EventLog, Follower
from engine.runs.run.events import End, Hello, Step, Warning, decode
from engine.runs.run.result import MeasuredPeak
from engine.runs.run.run_dir import RunDir


def hello() -> Hello:
    return Hello(pid=1, host="h", version="0")


def test_an_incomplete_last_line_is_read_once_complete(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.write(hello())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    follower = Follower(path)
    assert [event.seq for event in follower.read()] == [1]
    assert follower.read() == []
    path.write_bytes(whole + whole)
    assert [event.seq for event in follower.read()] == [1]


def test_a_new_worker_continues_the_numbering_after_an_incomplete_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).write(hello())
    with path.open("ab") as file:
        file.write(b'{"type":"step","st')
    EventLog(path).write(Warning(code="c", text="t"))
    assert [event.seq for event in Follower(path).read()] == [1, 2]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    step = Step(
        step=1, steps=1, epoch=1, loss=float("nan"), learning_rate=0, grad_norm=float("inf"),
        tokens=1, answer_tokens=1, tokens_per_second=1, seconds=1,
    )  # fmt: skip
    EventLog(path).write(step)
    (read,) = Follower(path).read()
    assert isinstance(read, Step) and read.loss is None and read.grad_norm is None


@pytest.mark.parametrize("line", [b'{"type":"from the future"}', b"not json", b"", b"\xff", b"[" * 9999])
def test_unknown_events_and_invalid_lines_are_ignored(line: bytes) -> None:
    assert decode(line) is None


def test_unknown_fields_are_ignored() -> None:
    assert isinstance(decode(b'{"type":"end","status":"finished","reason":"","later":1}'), End)


def test_a_lock_names_its_holder_and_is_released_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = locks.acquire(path, "123")
    assert held is not None and locks.acquire(path) is None and locks.holder(path) == "123"
    os.close(held)
    assert locks.holder(path) is None


HOSTILE = [
    "\x1b[2J",
    "\x1b]52;c;aGk=\x07",
    "\x9b31m",
    "\x1bP1$r\x1b\\",
    "\x1b_x\x1b\\",
    "a\rb",
    "\u202eabc",
    "\x00",
    "\ud800",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_terminal_control_characters_are_made_visible(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable() and "\\" in shown


def test_every_invisible_unicode_character_is_made_visible() -> None:
    """Also those that Python considers printable: fillers, variation selectors, joiners."""
    hidden = regex.compile(r"\p{Default_Ignorable_Code_Point}")
    every = [chr(code) for code in range(0x110000) if hidden.match(chr(code))]
    assert len(every) > 4000 and all(character in every for character in "\u115f\u3164\uffa0\u034f\ufe0f\U000e01ef")
    assert [character for character in every if not visible(character).startswith("\\")] == []


def test_a_long_line_is_shortened_with_the_number_of_hidden_characters() -> None:
    for text, cut_before, hidden in (("a" * 12, 0, "2"), ("a", 5, "5")):
        short = shortened(text, 10, cut_before)
        assert short.startswith(f"{text[:10]} … [") and figures(short) == [hidden]
    assert shortened("a" * 10, 10) == "a" * 10


def test_ordinary_text_is_unchanged() -> None:
    assert visible("Größe 日本語 🙂 [b]x[/b]") == "Größe 日本語 🙂 [b]x[/b]"


def test_a_path_that_is_not_a_regular_file_has_no_holder(tmp_path: Path) -> None:
    for name, make in (("link", lambda path: path.symlink_to("/etc/passwd")), ("folder", lambda path: path.mkdir())):
        make(tmp_path / name)
        assert locks.holder(tmp_path / name) is None
    assert locks.holder(tmp_path / "file" / "below") is None


@pytest.mark.parametrize("line", ["preset = 3", 'created = "noon"', "notes = 7", ""])
def test_a_damaged_run_section_is_a_user_error(line: str, tmp_path: Path) -> None:
    run = run_dir.create(tmp_path, "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    lines = run.config_file.read_text().splitlines()
    key = line.partition(" ")[0] or "preset"
    run.config_file.write_text("\n".join(line if original.startswith(f"{key} = ") else original for original in lines))
    with pytest.raises(UserError) as error:
        run_dir.read_frozen(run)
    assert (error.value.code, error.value.location) == ("run.config_damaged", str(run.config_file))


def test_training_memory_on_a_gpu_includes_paged_state() -> None:
    assert MeasuredPeak(rss_training=9, reserved_training=5, paged=2).training == 7
    assert MeasuredPeak(rss_training=9, reserved_training=5).training == 5
    assert MeasuredPeak(rss_training=9).training == 9


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("find", [RunDir.find, LadderDir.find])
def test_a_directory_of_another_user_is_refused(find: Callable[[Path, str], object], tmp_path: Path) -> None:
    run = run_dir.create(tmp_path, "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    for parent in (tmp_path, *list(tmp_path.parents)[:3]):
        parent.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(UserError) as caught:
            find(tmp_path, str(run.path))
    finally:
        os.seteuid(0)
    assert caught.value.code == "run.not_yours" and str(run.path) in caught.value.line


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_refused(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(UserError) as caught:
        locks.acquire(tmp_path / "lock", "1")
    assert caught.value.code == "locks.unsupported" and locks.holder(tmp_path / "lock") is None
    with pytest.raises(UserError), locks.exclusive(tmp_path):
        pass
