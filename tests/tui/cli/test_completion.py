"""Shell completion: the words that Typer offers, and TAB in a real bash and a real zsh."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import FTBENCH
from made_ladder import made_ladder
from screen import Terminal
from subcommands import subcommands
from typer._completion_classes import BashComplete
from typer.main import get_command

from engine.config.settings import known_keys
from engine.runs.run.exports import parse_artifact
from tui.cli import COMPLETION
from tui.cli.main import app


def offered(line: str) -> list[str]:
    *words, typed = line.split(" ")
    complete = BashComplete(get_command(app), {}, "ftbench", COMPLETION)
    return [item.value for item in complete.get_completions(words[1:], typed)]


def test_every_subcommand_and_its_options_are_offered() -> None:
    assert set(offered("ftbench ")) == {name.split()[0] for name in subcommands()}
    assert set(offered("ftbench presets ")) == {"list", "show", "new", "import"}
    assert {"--runs", "--version", "--help"} <= set(offered("ftbench --"))
    assert {"--method", "--set", "--json", "--help"} <= set(offered("ftbench run demo-lora --"))


def test_ship_offers_what_it_accepts() -> None:
    offers = offered("ftbench ladder demo --ship ")
    assert {"merged", "merged-f16", "gguf-bf16", "q4_k_m", "adapter"} <= set(offers)
    assert all(parse_artifact(word) for word in offers)


def test_presets_methods_models_data_and_keys_are_offered() -> None:
    assert {"demo-lora", "smollm2-full"} <= set(offered("ftbench run "))
    assert offered("ftbench run demo-q") == offered("ftbench plan demo-q") == ["demo-qlora"]
    assert offered("ftbench run demo-lora --method q") == ["qlora"]
    assert "smollm2-135m" in offered("ftbench run demo-lora --model ") and "tickets" in offered("ftbench data check ")
    assert {f"{key}=" for key in known_keys() if "." in key} <= set(offered("ftbench run demo-lora --set "))
    assert offered("ftbench run demo-lora --set train.schedule=l") == ["train.schedule=linear"]
    assert offered("ftbench run demo-lora --set train.probe=") == [
        "train.probe=", "train.probe=true", "train.probe=false"
    ]  # fmt: skip
    assert offered("ftbench export last --to ") == ["adapter", "merged", "gguf"]
    assert offered("ftbench run demo-lora extra ") == []


def test_runs_and_ladders_of_the_home_that_is_named_are_offered(tmp_path: Path) -> None:
    made, _ = made_ladder(tmp_path / "elsewhere")
    line = f"ftbench --runs {tmp_path}/elsewhere attach "
    assert made.name in offered(line) and len(offered(line)) == 11 and offered("ftbench attach ") == ["last"]
    assert offered(f"ftbench report --runs {tmp_path}/elsewhere 2") == [made.name]
    own, _ = made_ladder(tmp_path / "runs")
    assert offered("ftbench report 2") == [own.name]


def test_what_cannot_be_read_offers_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert offered(f"ftbench attach --runs {tmp_path}/file ") == []


def test_a_name_that_a_shell_would_interpret_is_not_offered(tmp_path: Path) -> None:
    for name in ("$(touch x)", "\\$(touch x)", "a;b", "a b", "it's", "*", "new\nline", "\x1b[2J", "plain"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.toml").write_text("")
    assert offered(f"ftbench attach --runs {tmp_path} ") == ["last", "plain"]


SHELL_ARGUMENTS = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"]}
START = {"bash": "", "zsh": "autoload -Uz compinit && compinit -u -D; unsetopt zle_bracketed_paste; "}


@pytest.fixture(params=SHELL_ARGUMENTS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    name = str(request.param)
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    (tmp_path / "work").mkdir()
    env = {"PATH": f"{Path(FTBENCH).parent}:{os.environ['PATH']}", "PS1": "> ", "HISTFILE": "", "BASH_SILENCE": "1"}
    terminal = Terminal(*SHELL_ARGUMENTS[name], cwd=tmp_path / "work", env=env, program=program)
    terminal.wait("> ")
    terminal.press(f"{START[name]}source <(ftbench --show-completion); PS1='ready> '", "enter")
    terminal.wait("\nready> ")
    yield terminal
    terminal.process.kill()
    terminal.process.wait()


def completed(shell: Terminal, typed: str, line: str) -> None:
    """Type, press TAB, wait for the completed line, and clear it."""
    shell.press(typed, "tab")
    shell.wait(f"ready> {line}")
    shell.press("ctrl+u")
    shell.wait(lambda: line not in shell.text)


def test_tab_completes_in_a_real_shell(shell: Terminal, tmp_path: Path) -> None:
    completed(shell, "ftbench repo", "ftbench report ")
    completed(shell, "ftbench run demo-lora --detac", "ftbench run demo-lora --detach ")
    completed(shell, "ftbench run demo-lora --set train.lear", "ftbench run demo-lora --set train.learning_rate=")
    (tmp_path / "work" / "mails.jsonl").write_text("")
    completed(shell, "ftbench data check mai", "ftbench data check mails.jsonl ")


def test_a_shell_that_asks_on_a_terminal_gets_words_and_no_bench(tmp_path: Path) -> None:
    """fish runs the question with the terminal as its output."""
    env = {COMPLETION: "complete_bash", "COMP_WORDS": "ftbench repo", "COMP_CWORD": "1"}
    terminal = Terminal(cwd=tmp_path, env=env)
    assert terminal.leave() == 0 and terminal.bytes.split() == [b"report"]


def test_the_script_is_printed() -> None:
    bash = ["bash", "-c", f"'{FTBENCH}' --show-completion; exit $?"]  # Typer looks for a shell among its parents
    done = subprocess.run(bash, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and COMPLETION in done.stdout
