"""The warning of a worker whose disk gets too full, and the one before a launch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from engine.config.preset_library import resolve_preset
from engine.memory.formula.formula import low_disk_notice
from engine.worker import run_log
from engine.worker.run_log import DiskWatch
from tui.cli.run import check_disk

MIB = 1 << 20


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def free(monkeypatch: pytest.MonkeyPatch, bytes_: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, bytes_))


def test_it_warns_once_when_the_next_checkpoint_would_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str]] = []
    watch = DiskWatch(tmp_path, lambda code, text: told.append((code, text)))
    free(monkeypatch, 300 * MIB)
    watch.saved(100 * MIB)
    assert told == []
    free(monkeypatch, 200 * MIB)
    watch.step()  # checked a moment ago
    assert told == []
    monkeypatch.setattr(run_log, "CHECK_SECONDS", 0.0)
    watch.step()
    watch.step()
    watch.saved(100 * MIB)
    ((code, text),) = told
    assert code == "disk.low" and "200 MiB left" in text and "264 MiB" in text and "ftbench clean" in text


def test_a_deleted_run_is_no_error(tmp_path: Path) -> None:
    DiskWatch(tmp_path / "gone", lambda code, text: None).saved(1)


def test_a_launch_warns_if_little_would_be_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = resolve_preset("demo-lora", None, {}).config
    free(monkeypatch, 10 << 30)
    check_disk([config], tmp_path / "runs", json=False)
    assert capsys.readouterr().err == ""
    free(monkeypatch, 1 << 30)
    check_disk([config], tmp_path / "runs", json=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and line.endswith(" [disk.low]") and "estimated" in line
    check_disk([config], tmp_path / "runs", json=True)
    assert json.loads(capsys.readouterr().err)["warning"]["code"] == "disk.low"
    assert low_disk_notice(None, 3 << 30, tmp_path) is None
