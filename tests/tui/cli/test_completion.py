"""Shell completion: the words that are offered, and TAB in a real bash and a real zsh."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import FTBENCH, ftbench
from made_ladder import made_ladder
from screen import Terminal
from subcommands import subcommands
from typer.main import get_command

from engine.config.errors import UserError
from engine.config.settings import known_keys
from engine.runs.run.exports import parse_artifact
from tui.cli.completion import candidates, completion, split
from tui.cli.main import app


def offered(line: str) -> list[str]:
    return list(candidates(split(line), get_command(app)))


CONTEXT = get_command(app).make_context("ftbench", [])


def test_every_subcommand_and_its_options_are_offered() -> None:
    top = {name.split()[0] for name in subcommands()}
    assert set(offered("ftbench ")) == top
    assert set(offered("ftbench presets ")) == {"list", "show", "new", "import"}
    assert offered("ftbench presets sh") == ["show"]
    assert {"--runs", "--version", "--help"} <= set(offered("ftbench --"))
    assert {"--method", "--set", "--json", "--help"} <= set(offered("ftbench run demo-lora --"))
    assert "--line" not in offered("ftbench completion bash --")


def test_ship_offers_what_it_accepts() -> None:
    offers = offered("ftbench ladder demo --ship ")
    assert {"merged", "merged-f16", "gguf-bf16", "q4_k_m", "adapter"} <= set(offers)
    assert all(parse_artifact(word) for word in offers)
    assert "merged,q4_k_m" in offered("ftbench ladder demo --ship merged,q4")


def test_presets_methods_models_data_and_keys_are_offered() -> None:
    assert {"demo-lora", "smollm2-full"} <= set(offered("ftbench run "))
    assert offered("ftbench run demo-q") == ["demo-qlora"]
    assert offered("ftbench run demo-lora --method q") == ["qlora"]
    assert "smollm2-135m" in offered("ftbench run demo-lora --model ") and "tickets" in offered("ftbench data check ")
    keys = offered("ftbench run demo-lora --set ")
    assert keys == [f"{key}=" for key in known_keys() if "." in key]
    assert offered("ftbench run demo-lora --set train.schedule=") == [
        "train.schedule=cosine", "train.schedule=linear", "train.schedule=constant"
    ]  # fmt: skip
    assert offered("ftbench run demo-lora --set=train.pro") == ["--set=train.probe="]
    assert offered("ftbench run demo-lora --set train.probe=t") == ["train.probe=true"]
    assert offered("ftbench export last --to ") == ["adapter", "merged", "gguf"]
    assert offered("ftbench track last --to t") == ["trackio", "tensorboard"]
    assert offered("ftbench run demo-lora extra ") == []


def test_runs_and_ladders_of_the_home_that_is_named_are_offered(tmp_path: Path) -> None:
    made, _ = made_ladder(tmp_path / "elsewhere")
    line = f"ftbench --runs {tmp_path}/elsewhere attach "
    assert made.name in offered(line) and len(offered(line)) == 11 and offered("ftbench attach ") == ["last"]
    assert offered(f"ftbench report --runs {tmp_path}/elsewhere 2") == [made.name]
    assert len(offered(f"{line}last ")) == 0
    own, _ = made_ladder(tmp_path / "runs")
    assert offered("ftbench report 2") == [own.name]


def test_what_cannot_be_read_offers_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert offered(f"ftbench attach --runs {tmp_path}/file ") == []


@pytest.mark.parametrize(
    ("line", "words"),
    [("ftbench ru", ["ftbench", "ru"]), ("ftbench run ", ["ftbench", "run", ""]), ("", [""]),
     ("ftbench plan --gpu 'A100 8", ["ftbench", "plan", "--gpu", "A100 8"]), ('ftbench "a', ["ftbench", "a"])],
)  # fmt: skip
def test_a_line_is_split_as_the_shell_does(line: str, words: list[str]) -> None:
    assert split(line) == words


def test_bash_inserts_what_follows_the_last_equals_sign(capsys: pytest.CaptureFixture[str]) -> None:
    completion(CONTEXT, "bash", "ftbench run demo-lora --set train.packing=p")
    assert capsys.readouterr().out.split() == ["packed", "padded"]
    completion(CONTEXT, "zsh", "ftbench run demo-lora --set train.packing=p")
    assert capsys.readouterr().out.split() == ["train.packing=packed", "train.packing=padded"]


def test_names_are_data_for_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("$(touch x)", "a;b", "new\nline", "\x1b[2J"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.toml").write_text("")
    completion(CONTEXT, "bash", f"ftbench attach --runs {tmp_path} ")
    assert capsys.readouterr().out.splitlines() == ["last", "'a;b'", "'$(touch x)'"]


def test_another_shell_is_refused() -> None:
    with pytest.raises(UserError) as refused:
        completion(CONTEXT, "tcsh")
    assert refused.value.code == "cli.unknown_shell" and "tcsh" in refused.value.problem
    assert all(shell in refused.value.hint for shell in SHELL_ARGUMENTS)


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
    terminal.press(f"{START[name]}source <(ftbench completion {name}); PS1='ready> '", "enter")
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
    completed(
        shell, "ftbench run demo-lora --set train.schedule=li", "ftbench run demo-lora --set train.schedule=linear "
    )
    (tmp_path / "work" / "mails.jsonl").write_text("")
    completed(shell, "ftbench data check mai", "ftbench data check mails.jsonl ")


def test_the_script_is_printed_for_the_documented_line() -> None:
    for name in SHELL_ARGUMENTS:
        done = ftbench("completion", name)
        assert done.returncode == 0 and "_ftbench" in done.stdout and "eval" not in done.stdout
