"""A mistake in the inputs of a run is refused while another run has the device, without importing torch."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import events_of

from engine.config.errors import UserError
from engine.config.preset_library import resolve_preset
from engine.hardware.devices import select_devices
from engine.runs.queue.device_queue import wait_for_devices
from engine.runs.run import run_dir
from engine.worker.checks import MAX_BYTES, refuse_inputs

GOOD = b'{"prompt": "a", "completion": "b"}\n'
BAD_LINE = b'{"prompt": "a", "comp\n'
WORKER = "import sys, engine.__main__ as e; status = e.main(sys.argv[1:]); print(status, 'torch' in sys.modules)"


@pytest.mark.parametrize(
    ("key", "name", "content", "code"),
    [
        ("data.id", "rows.jsonl", GOOD + BAD_LINE, "data.invalid_json"),
        ("data.id", "rows.csv", b"left,right\na,b\n", "data.no_format"),
        ("data.id", "folder/notes.md", b"", "data.no_files"),
        ("data.id", "", b"", "data.not_found"),
        ("model.id", "", b"", "model.not_found"),
        ("model.id", "folder/config.json", b"{}", "model.no_tokenizer"),
    ],
)
def test_a_run_is_refused_before_it_waits(key: str, name: str, content: bytes, code: str, tmp_path: Path) -> None:
    path = tmp_path / "inputs" / (name or "missing")
    if name:
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    given = path.parent if path.parent.name == "folder" else path
    run = run_dir.create(tmp_path / "runs", "mine", resolve_preset("demo-lora", None, {key: str(given)}))
    holder = wait_for_devices(select_devices("cpu"), time.time(), tmp_path, print, lambda: False)
    assert holder is not None  # this process has the device until it ends
    done = subprocess.run([sys.executable, "-P", "-c", WORKER, str(run.path)], capture_output=True, text=True)
    assert done.stdout == "2 False\n", done.stderr
    events = events_of(run.path)
    assert [event["type"] for event in events] == ["hello", "error", "end"]
    assert (events[1]["code"], events[1]["user"], events[2]["status"]) == (code, True, "failed")


@pytest.mark.parametrize("name", ["large.jsonl", "packed.jsonl.gz", "table.parquet", "folder"])
def test_what_takes_longer_to_read_is_left_to_the_run(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    content = GOOD * (MAX_BYTES // len(GOOD)) + BAD_LINE if name in ("large.jsonl", "folder") else b"damaged"
    (path / "rows.jsonl" if name == "folder" else path).write_bytes(content)
    refuse_inputs(resolve_preset("demo-lora", None, {"data.id": str(path)}).config)


def test_a_held_out_file_is_checked_too(tmp_path: Path) -> None:
    for name, content in (("train.jsonl", GOOD), ("mine.jsonl", BAD_LINE)):
        (tmp_path / name).write_bytes(content)
    settings = {"data.id": str(tmp_path / "train.jsonl"), "data.test": str(tmp_path / "mine.jsonl")}
    with pytest.raises(UserError) as caught:
        refuse_inputs(resolve_preset("demo-lora", None, settings).config)
    assert caught.value.code == "data.invalid_json"


def test_good_inputs_are_not_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(GOOD + json.dumps({"prompt": "c", "completion": ""}).encode() + b"\n")
    for settings in ({}, {"data.id": str(file)}, {"data.id": "owner/name"}, {"model.id": "owner/name"}):
        refuse_inputs(resolve_preset("demo-lora", None, settings).config)


HOLDER = (
    "import sys, time; from engine.hardware.devices import select_devices; from pathlib import Path\n"
    "from engine.runs.queue.device_queue import wait_for_devices\n"
    "held = wait_for_devices(select_devices('cpu'), time.time(), Path(sys.argv[1]), lambda note: None, lambda: False)\n"
    "print('held', flush=True); sys.stdin.read()"
)
"""Has the device until its input ends."""


def _waits(run: Path) -> bool:
    """Whether the run has logged that it waits for its device."""
    return (run / "events.jsonl").exists() and any(event["type"] == "phase" for event in events_of(run))


@pytest.mark.parametrize("key", ["data.id", "data.test"])
def test_a_file_that_changes_while_the_run_waits_is_refused(key: str, tmp_path: Path) -> None:
    names = {"data.id": tmp_path / "rows.jsonl", "data.test": tmp_path / "test.jsonl"}
    for path in names.values():
        path.write_bytes(GOOD * 20)
    settings = {name: str(path) for name, path in names.items()}
    run = run_dir.create(tmp_path / "runs", "mine", resolve_preset("demo-lora", None, settings))
    program = [sys.executable, "-P", "-c"]
    with subprocess.Popen(
        [*program, HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout and holder.stdin and holder.stdout.readline() == "held\n"
        with subprocess.Popen([*program, WORKER, str(run.path)], stdout=subprocess.PIPE, text=True) as worker:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not _waits(run.path):
                time.sleep(0.05)
            names[key].write_bytes(GOOD * 21)
            holder.stdin.close()
            assert worker.stdout and worker.stdout.read() == "2 False\n"
    events = events_of(run.path)
    assert [event["code"] for event in events if event["type"] == "error"] == ["data.changed_while_waiting"]
