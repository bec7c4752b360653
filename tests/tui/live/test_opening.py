"""Opening a run's events: completely, and a huge file as samples first."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from made_runs import step

from engine.runs.run import events
from tui.live import run_state
from tui.live.run_state import EventLoader

STEPS = 30_000


def write(path: Path, first: int, last: int) -> None:
    encode = msgspec.json.Encoder().encode
    with path.open("ab") as file:
        for number in range(first, last + 1):
            file.write(encode(step(number, 1000.0 / number, STEPS)) + b"\n")
            if number % 1000 == 0:
                event = events.Eval(when="during", split="validation", step=number, rows=1, loss=1.0)
                file.write(encode(event) + b"\n")


@pytest.fixture
def huge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as huge."""
    for name, value in (("MAX_UNSAMPLED", 1 << 20), ("HEAD", 64 << 10), ("TAIL", 64 << 10), ("WINDOWS", 50)):
        monkeypatch.setattr(run_state, name, value)
    path = tmp_path / "events.jsonl"
    write(path, 1, STEPS)
    return path


def test_a_run_of_common_length_is_read_completely(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, 1, 50)
    opened = EventLoader(path)
    state = opened.first()
    assert len(state.loss) == 50 and not state.sampled and not opened.sampled
    assert opened.advance() is None
    write(path, 51, 52)
    assert [event.step for event in opened.follower.read() if isinstance(event, events.Step)] == [51, 52]


def test_a_huge_run_is_sampled_from_end_to_end(huge: Path) -> None:
    opened = EventLoader(huge)
    state = opened.first()
    assert state.sampled and opened.sampled
    assert state.loss.span() == (1, STEPS) and state.step is not None and state.step.step == STEPS
    assert len(state.loss) < STEPS / 5
    columns = [column for column, _ in state.loss.columns(1, STEPS, 40)]
    assert columns == list(range(40)), "samples lie everywhere"


def test_the_exact_state_follows_with_every_event_once(huge: Path) -> None:
    opened = EventLoader(huge)
    opened.first()
    write(huge, STEPS + 1, STEPS + 3)
    live = [event.step for event in opened.follower.read() if isinstance(event, events.Step)]
    assert live == [STEPS + 1, STEPS + 2, STEPS + 3]
    state = None
    while state is None:
        state = opened.advance()
    assert not state.sampled and not opened.sampled
    assert state.counted == STEPS + 3 + STEPS // 1000
    assert len(state.validation) == STEPS // 1000
    write(huge, STEPS + 4, STEPS + 4)
    assert [event.step for event in opened.follower.read() if isinstance(event, events.Step)] == [STEPS + 4]


def test_a_partial_last_line_is_read_once_complete(huge: Path) -> None:
    line = msgspec.json.encode(step(STEPS + 1, 1.0, STEPS)) + b"\n"
    with huge.open("ab") as file:
        file.write(line[:40])
    opened = EventLoader(huge)
    assert opened.first().loss.span() == (1, STEPS)
    with huge.open("ab") as file:
        file.write(line[40:])
    assert [event.step for event in opened.follower.read() if isinstance(event, events.Step)] == [STEPS + 1]


def test_no_file_is_an_empty_run(tmp_path: Path) -> None:
    assert EventLoader(tmp_path / "none").first().counted == 0
