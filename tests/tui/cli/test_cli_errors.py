"""An error ends the command with one line on stderr, as JSON with --json, and with its exit status."""

from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command import ftbench
from subcommands import subcommands

import engine
import tui
from engine.config.errors import RunFailed, UserError
from engine.config.preset_library import resolve_preset
from engine.runs import start
from engine.runs.run import events, run_dir
from tui.cli import presets, run
from tui.cli.errors import handle_errors
from tui.cli.gone import GONE
from tui.cli.main import run_command


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR, errno.EMFILE, errno.EIO, errno.ESTALE])
def test_a_file_that_cannot_be_opened_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "/some/\x1bfile")

    with pytest.raises(SystemExit) as ended:
        handle_errors(fail)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "file" in line and os.strerror(number) in line and "\x1b" not in line


def test_an_error_that_names_no_file_is_not_hidden(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    with pytest.raises(OSError, match="Bad file descriptor"):
        handle_errors(fail)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_missing_system_resources_are_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(SystemExit):
        handle_errors(fail)
    assert os.strerror(number) in capsys.readouterr().err


def test_a_worker_that_cannot_be_started_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    run = run_dir.create(tmp_path, "demo-lora", resolve_preset("demo-lora", None, {}))
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(RunFailed) as failed:
        start.start_worker(run)
    assert failed.value.code == "system.no_process" and os.strerror(errno.EAGAIN) in str(failed.value)


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_recognized_in_every_librarys_error(number: int) -> None:
    from engine.training.guards import is_disk_full  # loads torch

    assert is_disk_full(OSError(number, os.strerror(number)))
    assert is_disk_full(RuntimeError(f"Error while serializing: I/O error: … (os error {number})"))
    assert not is_disk_full(RuntimeError("Error while serializing: I/O error: … (os error 5)"))


WITHOUT_JSON: set[str] = set()
"""Subcommands without --json."""


def error_as_json(
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    work: Callable[[], object] = run_command,
) -> tuple[object, dict[str, Any]]:
    """(exit status, error) of a command line."""
    monkeypatch.setattr(sys, "argv", ["ftbench", *arguments])
    with pytest.raises(SystemExit) as ended:
        handle_errors(work)
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    output = json.loads(line)
    assert set(output) == {"error"} and set(output["error"]) == {"code", "problem", "location", "hint"}
    return ended.value.code, output["error"]


@pytest.mark.parametrize("subcommand", sorted(set(subcommands()) - WITHOUT_JSON))
def test_every_subcommand_prints_its_errors_as_json(
    subcommand: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, error = error_as_json([*subcommand.split(), "--json", "--no-such-option"], monkeypatch, capsys)
    assert (status, error["code"]) == (2, "cli.usage")
    assert "--no-such-option" in error["problem"] and f"ftbench {subcommand} --help" in error["hint"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["plan", "--json"], "cli.missing_preset"),
        (["plan", "demo-lora", "--json", "--method", "full", "--set", "adapter.rank=8", "--quick"], "plan.unread_key"),
        (["runs", "--json", "--runs", ""], "cli.empty_value"),
        (["run", "demo-lora", "--json", "--model", "tiny", "--set", "model.id=other"], "cli.conflicting_values"),
        (["demo", "--json", "--quick", "--seeds", "2"], "cli.conflicting_values"),
        (["plan", "demo-lora", "--json", "--gpu", "L4", "--gpu", "A10"], "cli.conflicting_values"),
    ],
)
def test_json_errors_have_the_code_of_the_problem(
    arguments: list[str], code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, error = error_as_json(arguments, monkeypatch, capsys)
    assert (status, error["code"]) == (2, code) and error["hint"]


@pytest.mark.parametrize(
    ("raised", "status", "expected"),
    [
        (UserError("bad", "a.csv", "fix it", "data.bad"), 2, ("data.bad", "bad", "a.csv", "fix it")),
        (RunFailed("worker died"), 1, ("run.failed", "worker died", "", "")),
        (RunFailed("too slow", "run.start_timeout"), 1, ("run.start_timeout", "too slow", "", "")),
        (
            OSError(errno.EACCES, "Permission denied", "/f"),
            1,
            ("system.refused", "Permission denied", "/f", "check its owner and permissions"),
        ),
        (OSError(errno.ENAMETOOLONG, "too long", "/f"), 2, ("name.invalid", "too long", "/f", "check the name")),
    ],
)
def test_json_errors_have_four_fields(
    raised: Exception,
    status: int,
    expected: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise raised

    exit_status, error = error_as_json(["run", "--json"], monkeypatch, capsys, fail)
    assert exit_status == status
    assert (error["code"], error["problem"], error["location"], error["hint"]) == expected


def test_after_two_dashes_json_is_an_argument(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ftbench", "presets", "show", "--", "--json"])
    with pytest.raises(SystemExit):
        handle_errors(run_command)
    assert capsys.readouterr().err.startswith("ftbench: ")


def test_json_shows_the_notices_of_a_preset_with_their_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('method = "lora"\n[train]\nlearning_rate = 3e-3\n')
    presets.show(str(mine), "full", json=True)
    output = json.loads(capsys.readouterr().out)
    assert "preset.other_method_rate" in [notice["code"] for notice in output["notices"]]
    presets.show("demo-lora", json=True)
    assert "notices" not in json.loads(capsys.readouterr().out)


def test_json_shows_the_warnings_of_a_run_with_their_codes(tmp_path: Path) -> None:
    folder = run_dir.create(tmp_path, "demo-lora", resolve_preset("demo-lora", None, {}))
    warning = events.Warning(code="data.test_overlaps_train", text="7 of 100 test rows")
    folder.events_file.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in (warning, warning)))
    shown = run.outcome(folder, None, events.End(status="failed", reason="worker died"))
    assert (shown["run"], shown["status"], shown["reason"]) == (folder.name, "failed", "worker died")
    assert shown["notices"] == [{"code": "data.test_overlaps_train", "text": "7 of 100 test rows"}]


def test_every_failure_has_a_code() -> None:
    """`RunFailed(text, code)`: the default code says nothing."""
    without = []
    for path in [*Path(engine.__file__).parent.rglob("*.py"), *Path(tui.__file__).parent.rglob("*.py")]:
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)) if "RunFailed(" in text else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "RunFailed":
                without += [f"{path}:{node.lineno}"] if len(node.args) < 2 else []
    assert not without


def test_a_list_of_a_preset_is_shown_on_one_line_as_set_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    presets.show("demo-lora", settings=['adapter.target_modules=["q_proj", "v_proj"]'])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("target_modules")]
    assert tomllib.loads(line) == {"target_modules": ["q_proj", "v_proj"]}


@pytest.mark.parametrize("line", GONE)
def test_what_is_gone_says_what_to_do_instead(line: str) -> None:
    done = ftbench(*line.split()[1:])
    assert done.returncode == 2 and GONE[line] in done.stderr and done.stderr.count("\n") == 1


def test_what_is_gone_may_be_a_value() -> None:
    done = ftbench("presets", "show", "completion")
    assert done.returncode == 2 and "unknown preset 'completion'" in done.stderr
