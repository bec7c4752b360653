"""`ftbench try` as a real command: answers of loaded models as JSON and as text, the screen on a terminal, errors."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from chat_server import item, stand_in
from forked import ftbench
from made_ladder import made_ladder
from made_models import made_model, record_answers
from message_parts import figures
from screen import Terminal

from engine.extensions.chat.chat_client import ChatClient, OpenSession, Sampling
from engine.runs.run.run_dir import RunDir
from tui.extensions.chat import command as chat
from tui.extensions.chat.chat_state import ChatState, item_text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunDir]]:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTBENCH_LOCKS", str(tmp_path_factory.mktemp("locks")))
        runs = {"lora": made_model(folder, "lora"), "full": made_model(folder, "full", scale=0)}
        record_answers(runs["lora"], [("a", True), ("b", False)])
        record_answers(runs["full"], [("a", True), ("c", False)])
        yield runs


def answered(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, JSON output (or the error) and stderr."""
    done = ftbench("try", "--json", *arguments)
    output = json.loads(done.stdout) if done.stdout else json.loads(done.stderr.splitlines()[-1])["error"]
    return done.returncode, output, done.stderr


def test_a_prompt_and_test_items_as_json(made: dict[str, RunDir]) -> None:
    runs = [str(made[name].path) for name in ("lora", "full")]
    sampling = ["--max-new-tokens", "5", "--temperature", "0.5", "--top-p", "0.9", "--seed", "7"]
    status, output, stderr = answered(
        *runs, "--prompt", "Hi", "--items", "1", "--now", "--system", "Be brief.", *sampling
    )
    assert status == 1 and "chat.full_is_base" in stderr  # its weights were not changed
    assert [column["title"] for column in output["columns"]] == ["base", "LoRA", "Full"]
    assert output["sampling"] == {"temperature": 0.5, "top_p": 0.9, "seed": 7, "max_new_tokens": 5}
    assert [part["name"] for part in output["memory"]["parts"]] == ["base", "Full"] and output["memory"]["process"] > 0
    item, prompt = output["answers"]
    assert (item["item"], item["kind"]) == ("test.jsonl line 2", "disagree") and len(item["recorded"]) == 3
    assert prompt["prompt"] == "Hi" and len(prompt["answers"]) == 3
    for answer in [*item["answers"].values(), *prompt["answers"].values()]:
        assert answer["tokens"] <= 5 and answer["ended"] in ("end token", "length") and answer["first_token"] > 0


def test_without_a_prompt_or_a_run_it_says_what_to_do(made: dict[str, RunDir], tmp_path: Path) -> None:
    status, error, _ = answered(str(made["lora"].path))
    assert (status, error["code"]) == (2, "chat.no_prompt") and "--prompt" in error["hint"]
    status, error, _ = answered("absent", "--prompt", "Hi", "--runs", str(tmp_path / "none"))
    assert (status, error["code"]) == (2, "run.not_found")
    folder, ladder = made_ladder(tmp_path / "ladders")
    (folder.runs / list(ladder.finished_runs().values())[1] / "events.jsonl").unlink()
    status, error, _ = answered(str(folder.path), "--prompt", "Hi")
    assert (status, error["code"]) == (2, "chat.not_finished")
    ladder.entries = []
    folder.write_state(ladder)
    status, error, _ = answered(str(folder.path), "--prompt", "Hi")
    assert (status, error["code"]) == (2, "ladder.no_finished_run")


def test_on_a_terminal_the_screen_opens_and_escape_ends_everything(made: dict[str, RunDir], tmp_path: Path) -> None:
    terminal = Terminal("try", str(made["lora"].path), "--no-base", "--device", "cpu", cwd=tmp_path, size=(80, 24))
    terminal.wait("ready on")
    children = psutil.Process(terminal.process.pid).children()
    assert len(children) == 1 and "engine.extensions.chat.chat_server" in children[0].cmdline()
    terminal.press("H", "i", "enter")
    terminal.wait("user: Hi")
    terminal.wait("first token")
    terminal.press_until("escape", "next item")
    terminal.press("escape")
    assert terminal.leave() == 0
    assert not children[0].is_running()


def test_control_characters_of_answers_are_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stand_in(tmp_path, monkeypatch)
    client = ChatClient(OpenSession(runs=[str(tmp_path)]), False)
    (tmp_path / "busy").touch()
    threading.Timer(3.0, (tmp_path / "busy").unlink).start()
    state = ChatState(Sampling(max_new_tokens=0))
    chat.PrintedAnswers(client, state, "hello", 2, False).run(lambda text: None)
    assert state.ready is not None
    assert {notice.code for notice in state.ready.notices} & set(chat.DEFECTS)  # the server reports an inactive adapter
    shown, warned = capfd.readouterr()
    assert warned.count("[chat.waiting]") == 1 and "lora-3f2a (process 17)" in warned and "--device cpu" in warned
    assert not {"\x1b", "\x07", "\u202e"} & set(shown) and "\\x1b]52;c;aGk=" in shown
    lines = {line.partition(":")[0]: line for line in shown.splitlines()}
    assert figures(lines["memory"]) == ["269", "2", "12.0", "900"] and "base 269 MiB" in lines["memory"]
    assert "greedy" in lines["sampling"] and "96 tokens" in lines["sampling"]
    assert "test.jsonl line 1" in lines["item 1"] and item_text(item(1)) in lines["item 1"]
    assert re.search(r"^2 test items: .* differ\D* 1, .*\D 1$", shown, re.MULTILINE)
    assert shown.count("\nLoRA heard hello after 1 messages") == 1
    assert re.search(r"recorded another\b.*\bincorrect", shown)
    assert opened_with_wait(tmp_path)


def opened_with_wait(folder: Path) -> bool:
    return bool(json.loads((folder / "opened").read_text())["wait"])
