"""Errors of the command line parser, help texts, encodings, and output that cannot be written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import command
import pytest
from command import FTBENCH, ON_SMALL
from forked import ftbench

from engine.runs.run.run_dir import RunDir
from faults.worker_runs import stop


@pytest.mark.parametrize(
    ("arguments", "text", "see"),
    [
        (["rnu"], "No such command", "ftbench --help"),
        (["data", "mails.csv"], "No such command", "check, show; see `ftbench data --help`"),
        (["run", "demo-lora", "--bla"], "No such option", "ftbench run --help"),
        (["run"], "PRESET", "ftbench run --help"),
        (["plan", "demo-lora", "--length"], "--length", "ftbench plan --help"),
        (["plan", "demo-lora", "--method", "fully"], "'fully'", "qlora, lora, full"),
        (["data", "show", "tickets", "--rows", "0"], "--rows", "ftbench data show --help"),
    ],
)
def test_an_invalid_command_line_is_one_line(arguments: list[str], text: str, see: str) -> None:
    done = ftbench(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("ftbench: ") and text in line and see in line


@pytest.mark.parametrize("verb", [["attach"], ["stop"], ["resume"], ["report"], ["run"], ["presets", "show"]])
def test_an_impossible_file_name_is_one_line(verb: list[str]) -> None:
    done = ftbench(*verb, "x" * 5000)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("ftbench: ") and len(line) < 1000


def test_a_group_without_a_subcommand_lists_its_subcommands() -> None:
    done = ftbench("data")
    assert done.returncode == 2
    assert "check" in done.stderr and "show" in done.stderr


def test_help_fits_eighty_columns_without_truncated_summaries() -> None:
    shown = ftbench("--help").stdout
    assert "..." not in shown.partition("Commands:")[2]
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("arguments", [["presets", "list"], ["doctor"], ["plan", "demo-lora", "--quick", "--history"]])
def test_an_encoding_without_the_symbols_gets_ascii_ones(arguments: list[str], encoding: str) -> None:
    done = ftbench(*arguments, env={**os.environ, "PYTHONIOENCODING": encoding}, encoding=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u" not in done.stdout and len(done.stdout.splitlines()) > 1


def test_errors_are_one_line_in_every_encoding() -> None:
    done = command.ftbench("run", "–→日", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2
    assert done.stderr.startswith("ftbench: unknown preset '-->\\u65e5'")


@pytest.mark.parametrize("end", ["> /dev/full", ">&-"])
@pytest.mark.parametrize("arguments", ["presets list", "presets show demo-lora --json"])
def test_output_that_cannot_be_written_is_one_line_and_closed_output_is_silent(arguments: str, end: str) -> None:
    done = subprocess.run(f"{FTBENCH} {arguments} {end}", shell=True, capture_output=True, text=True, timeout=600)
    if "full" not in end:
        assert (done.returncode, done.stderr) == (0, "")
        return
    (line,) = done.stderr.splitlines()
    if "--json" in arguments:
        assert done.returncode == 1 and json.loads(line)["error"]["code"] == "disk.full"
    else:
        assert done.returncode == 1 and line.startswith("ftbench: ") and os.strerror(errno.ENOSPC) in line


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["presets", "show", "demo-lora", "--json"], 0),
        (["presets", "list"], 0),
        (["--help"], 0),
        (["ladder", "nosuch"], 2),
    ],
)
def test_a_closed_pipe_is_not_a_failure(arguments: list[str], status: int) -> None:
    with subprocess.Popen([FTBENCH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert len(process.stderr.read().splitlines()) == (1 if status else 0)
    assert process.returncode == status


def test_a_run_starts_although_nobody_reads_its_output(tmp_path: Path) -> None:
    line = [FTBENCH, "run", "demo-lora", "--runs", str(tmp_path), *ON_SMALL, "--set", "train.steps=500"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    (run,) = RunDir.iterate(tmp_path)
    assert process.returncode == 0 and run.is_active()
    stop(run)


def refusal(*arguments: str, code: str, cwd: Path | None = None) -> dict[str, str]:
    """The error of a command that is refused with exit status 2 and this code."""
    done = ftbench(*arguments, "--json", cwd=cwd)
    (line,) = done.stderr.splitlines()
    error: dict[str, str] = json.loads(line)["error"]
    assert (done.returncode, error["code"]) == (2, code), error
    return error


def test_runs_option_works_before_and_after_the_subcommand(tmp_path: Path) -> None:
    for line in (["--runs", str(tmp_path / "a"), "runs"], ["runs", "--runs", str(tmp_path / "a")]):
        assert f"no runs in {tmp_path / 'a'}" in ftbench(*line).stdout
    both = ftbench("--runs", str(tmp_path / "b"), "runs", "--runs", str(tmp_path / "a"))
    assert f"no runs in {tmp_path / 'a'}" in both.stdout


def test_ascii_option_works_before_the_subcommand() -> None:
    assert not ftbench("presets", "list").stdout.isascii()
    done = ftbench("--ascii", "presets", "list")
    assert done.returncode == 0 and done.stdout.isascii()


def test_data_by_option_and_by_setting_is_refused_without_creating_files(tmp_path: Path) -> None:
    words = ["--data", "tickets", "--set", "data.id=other.jsonl"]
    error = refusal("run", "demo-lora", *words, code="cli.conflicting_values")
    assert " data.id: " in error["problem"] and all(word in error["problem"] for word in words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_value_is_refused_in_a_folder_of_data(blank: str, tmp_path: Path) -> None:
    """Of an unset variable of the shell: it would be the working directory, or a part of each name."""
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    for words in (["data", "check"], ["run", "demo-lora", "--data"], ["stop"], ["clean", "runs", "--yes", "--run"]):
        error = refusal(*words, blank, code="cli.empty_value", cwd=tmp_path)
        assert error["problem"].endswith(words[-1])
    error = refusal("runs", f"--runs={blank}", code="cli.empty_value", cwd=tmp_path)
    assert error["problem"].endswith("--runs")
    setting = ["--set", f"data.test={blank}"]
    error = refusal("data", "check", "tickets", *setting, code="preset.empty_value", cwd=tmp_path)
    assert "data.test" in error["problem"]
