"""Run and ladder directories of schema version 1 read with the current field names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from places import TESTS

from engine.runs import events
from engine.runs.event_decoding import decode
from engine.runs.follow import Follower
from engine.runs.ladder import decode_ladder
from engine.runs.result import decode_result
from engine.runs.run_dir import RunDir
from tui.history.comparison import compare, read

FINISHED = TESTS / "old_runs" / "finished-0.1.0"


def old_memory(**more: object) -> bytes:
    return msgspec.json.encode({"type": "memory", "v": 1, "seq": 1, "t": 1.0, "rss": 1, "rss_peak": 2, **more})


def test_old_event_fields_are_read_under_their_new_names() -> None:
    memory = decode(old_memory(card_pid=7))
    assert isinstance(memory, events.Memory) and memory.gpu_pid == 7
    read = Follower(FINISHED / "events.jsonl").read()
    data = next(event for event in read if isinstance(event, events.DataPrepared))
    assert data.format_reason == "column messages with role, content: messages"
    assert {event.packing for event in read if isinstance(event, events.Plan)} == {"packed"}


def test_no_event_of_an_old_log_counts_as_damaged() -> None:
    follower = Follower(FINISHED / "events.jsonl")
    read, lines = follower.read(), (FINISHED / "events.jsonl").read_bytes().count(b"\n")
    assert (len(read), follower.damaged) == (lines, 0)


def test_an_old_name_in_a_current_event_is_an_unknown_field() -> None:
    memory = decode(old_memory(card_pid=7).replace(b'"v":1', b'"v":2'))
    assert isinstance(memory, events.Memory) and memory.gpu_pid is None


def test_an_old_result_keeps_its_sizes(tmp_path: Path) -> None:
    stored = json.loads((FINISHED / "result.json").read_text())
    run = RunDir(tmp_path / "20261126-054833-demo-lora-lora-1b80")
    shutil.copytree(FINISHED, run.path)
    result = run.result()
    assert result is not None
    assert result.artifact_bytes == stored["artefact_bytes"] > 0
    assert result.peak_training_bytes == stored["comparable"] > 0
    assert "artifact" in compare(read([run]), 100).plain


@pytest.mark.parametrize(
    ("old", "new"),
    [("surveying", "preparing"), ("trying", "tuning"), ("climbing", "training"), ("judging", "analyzing")],
)
def test_old_stages_are_read_under_their_new_names(old: str, new: str) -> None:
    table = {"v": 1, "name": "l", "preset": "p", "command": "", "created": 1.0, "stage": old}
    assert decode_ladder(msgspec.json.encode(table)).stage == new


@pytest.mark.parametrize("text", [b"[]", b"{}", b'{"v": 1, "rows": 3}', b'{"v": 1, "rows": [3], "stage": []}', b"no"])
def test_damaged_files_are_refused_whatever_their_version(text: bytes) -> None:
    for decode_file in (decode_result, decode_ladder):
        with pytest.raises(msgspec.DecodeError):
            decode_file(text)
