"""The page on data: its files are datasets, its commands work, and every row and column of them is accounted for."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from forked import ftbench
from places import DOCS

from engine.worker.requests import REQUESTS
from tui.cli import data
from tui.cli.main import run_command

PAGE = DOCS / "data.md"
_FENCE = re.compile(r"(?:`(?P<file>[\w.]+)`:\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)
KINDS = (
    *("Classification", "Extraction", "Chat", "Several turns", "Tool calling", "Multiple references"),
    *("Plain text and long documents", "Preference data"),
)
"""Sections that have to have files and a command."""


def sections() -> dict[str, list[re.Match[str]]]:
    """Heading -> its fenced blocks."""
    parts = re.split(r"^## (.+)\n", PAGE.read_text(), flags=re.MULTILINE)
    return {title: list(_FENCE.finditer(text)) for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def commands() -> list[list[str]]:
    """Every command line of the page, without its comment."""
    blocks = [block["text"] for section in sections().values() for block in section if block["kind"] == "sh"]
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of the page."""
    for section in sections().values():
        for block in section:
            if block["file"]:
                (tmp_path / block["file"]).write_text(block["text"])
    return tmp_path


def test_every_kind_of_data_has_a_file_and_a_command_that_reads_it() -> None:
    blocks_by_kind = sections()
    for kind in KINDS:
        files = {block["file"] for block in blocks_by_kind[kind] if block["file"]}
        said = " ".join(block["text"] for block in blocks_by_kind[kind] if block["kind"] == "sh")
        assert files and all(file in said for file in files), kind
    named = [block["file"] for blocks in blocks_by_kind.values() for block in blocks if block["file"]]
    assert len(named) == len(set(named))


def answered_here(question: str, arguments: dict[str, Any], *rest: object, **more: object) -> Any:
    """What the engine's process answers, without the seconds that its start takes."""
    return json.loads(json.dumps(REQUESTS[question](arguments, lambda *told: None)))


def test_every_data_command_of_the_page_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line for line in commands() if line[1] == "data"]
    assert len(lines) > 12 and all(line[0] == "ftbench" for line in commands())
    monkeypatch.chdir(folder)
    monkeypatch.setattr(data, "ask", answered_here)
    for line in lines:
        monkeypatch.setattr(sys, "argv", [*line, "--json"])
        with pytest.raises(SystemExit) as done:
            run_command()
        said = json.loads(capsys.readouterr().out)
        assert done.value.code == 0, (shlex.join(line), said)
        if line[2] == "check":
            adds_up(said)
        else:
            assert any(token["trained"] for row in said for token in row["tokens"])


def test_every_run_of_the_page_trains_and_is_scored(folder: Path) -> None:
    lines = [line for line in commands() if line[1] != "data"]
    assert lines and len(lines) <= 2
    for line in lines:
        done = ftbench(*line[1:], "--json", cwd=folder, timeout=600)
        assert done.returncode == 0, (shlex.join(line), done.stdout, done.stderr)
        assert json.loads(done.stdout)["status"] == "finished"


def adds_up(report: dict[str, object]) -> None:
    """Every row is accounted for, no column of an example is ignored."""
    usage = report["data_usage"]
    assert isinstance(usage, dict) and isinstance(report["columns"], list)
    used = usage["train"] + usage["validation"] + usage["test"]
    assert used + sum(reason["rows"] for reason in usage["left_out"].values()) == usage["read"]
    assert usage["train"] > 0 and "ignored" not in [column["role"] for column in report["columns"]]
