"""The command line's own edge: what typer refuses, what it helps with, and a reader that goes away."""

from __future__ import annotations

import subprocess

import pytest
from command import FTBENCH, ftbench


@pytest.mark.parametrize(
    ("arguments", "says", "look"),
    [
        (["rnu"], "No such command", "ftbench --help"),
        (["run", "demo-lora", "--bla"], "No such option", "ftbench run --help"),
        (["run"], "PRESET", "ftbench run --help"),
        (["plan", "demo-lora", "--length"], "--length", "ftbench plan --help"),
        (["plan", "demo-lora", "--method", "fully"], "'fully'", "ftbench plan --help"),
        (["data", "show", "tickets", "--rows", "0"], "--rows", "ftbench data show --help"),
    ],
)
def test_what_the_command_line_gets_wrong_is_one_line(arguments: list[str], says: str, look: str) -> None:
    done = ftbench(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("ftbench: ") and says in line and look in line


def test_a_group_without_a_verb_shows_its_verbs() -> None:
    done = ftbench("data")
    assert done.returncode == 2
    assert "check" in done.stderr and "show" in done.stderr


def test_help_fits_eighty_columns_and_no_verb_is_told_by_halves() -> None:
    shown = ftbench("--help").stdout
    assert "..." not in shown.partition("Commands:")[2]
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [["presets", "show", "demo-lora", "--json"], ["presets", "list"], ["--help"]])
def test_a_reader_that_has_gone_is_no_failure(arguments: list[str]) -> None:
    with subprocess.Popen([FTBENCH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
