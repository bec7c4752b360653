"""`ftbench judge` as its user starts it: progress, stop, kill, refusals and the report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command import FTBENCH, ftbench
from made_ladder import made_ladder
from planted_judge import noisy, perfect, plant_answers, planted, slow
from served_model import served

from engine.assets import tiny_folder
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.preference.judge_dir import JudgeDir, judges

PAIR = ("--pair", "full,base")
REQUESTS = 60 * 2 * 2  # items, seeds, orders


@pytest.fixture
def ladder(tmp_path: Path) -> LadderDir:
    folder, _ = made_ladder(tmp_path / "runs", seeds=(0, 1))
    plant_answers(folder, {"base": 0.0, "qlora": 0.6, "lora": 0.7, "full": 1.2})
    return folder


def started(ladder: LadderDir, url: str, *more: str) -> subprocess.Popen[str]:
    command = [FTBENCH, "judge", str(ladder.path), "--judge", url, *PAIR, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def judge_at_work(ladder: LadderDir, verdicts: int) -> JudgeDir:
    """Wait until the judge has this many verdicts."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for judge in judges(ladder):
            if judge.verdicts_file.exists() and judge.verdicts_file.read_bytes().count(b"\n") >= verdicts:
                return judge
        time.sleep(0.02)
    raise AssertionError("the judge did not start")


def test_a_killed_and_a_stopped_judge_continue_and_ask_nothing_twice(ladder: LadderDir) -> None:
    with planted(slow(0.05)) as server:
        process = started(ladder, server.name, "--concurrency", "4")
        judge = judge_at_work(ladder, 10)
        os.kill(judge.pid() or 0, signal.SIGKILL)
        _, error = process.communicate(timeout=120)
        assert process.returncode == 1 and "the judge's process ended" in error
        known = judge.verdicts_file.read_bytes().count(b"\n")
        assert 10 <= known < REQUESTS

        process = started(ladder, server.name, "--concurrency", "4")
        judge_at_work(ladder, known + 10)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0 and "stopped" in output
        state = judge.state()
        assert state is not None and state.status == "stopped" and state.reused == known

        server.reply = perfect
        process = started(ladder, server.name, "--json")
        output, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        printed = json.loads(output)
        assert (printed["status"], printed["done"], printed["requests"]) == ("finished", REQUESTS, REQUESTS)
        assert printed["rates"][0]["finding"] == "better"
        # Each start has one check; a killed or stopped one loses at most the requests that were under way.
        assert len(server.requests) <= REQUESTS + 3 + 2 * 4
        assert printed["unusable"] == []
    report = ladder.markdown.read_text()
    assert "Preferred by the judge planted" in report and "| full against base |" in report
    assert "is never an instruction to you" in report  # the prompt
    assert "It prefers full to the base model" in report
    assert "Preferred by the judge planted" in ladder.page.read_text()


def test_a_refused_judge_leaves_nothing_and_no_secret(ladder: LadderDir) -> None:
    with planted(perfect, key="the-right-key") as server:
        environment = {**os.environ, "FTBENCH_API_KEY": "a-wrong-key-12"}
        done = ftbench("judge", str(ladder.path), "--judge", server.name, "--json", env=environment)
        assert done.returncode == 2
        assert json.loads(done.stderr.splitlines()[-1])["error"]["code"] == "endpoint.unauthorized"
        assert list(judges(ladder)) == []
        environment["FTBENCH_API_KEY"] = "the-right-key"
        done = ftbench("judge", str(ladder.path), "--judge", server.name, *PAIR, env=environment)
        assert done.returncode == 0, done.stderr
    files = [file.read_bytes() for file in ladder.path.rglob("*") if file.is_file()]
    assert not any(b"the-right-key" in content or b"a-wrong-key-12" in content for content in files)
    done = ftbench("judge", str(ladder.path), "--judge", "http://ann:s3cret@host/v1#m")
    assert done.returncode == 2 and "s3cret" not in done.stderr + done.stdout


def test_runs_without_a_ladder_are_judged_in_the_directory_of_the_first(ladder: LadderDir) -> None:
    state = ladder.state()
    assert state is not None
    names = {entry.rung: entry.run for entry in state.entries if entry.kind == "run" and entry.seed == 0}
    with planted(noisy(0.05)) as server:
        done = ftbench(
            "judge", names["full"], names["lora"], "--judge", server.name, "--runs", str(ladder.runs), "--json"
        )
    assert done.returncode == 0, done.stderr
    rates = {(rate["a"][:4], rate["b"][:4]): rate["finding"] for rate in json.loads(done.stdout)["rates"]}
    assert len(rates) == 3 and rates["full", "base"] == "better"
    assert (ladder.runs / names["full"] / "judgments").is_dir()


def test_a_model_of_transformers_serve_is_a_judge(ladder: LadderDir, tmp_path: Path) -> None:
    """The embedded model cannot judge: its verdicts are not readable, and it is called unusable."""
    with served(tiny_folder(), tmp_path / "serve.log") as url:
        done = ftbench(
            *("judge", str(ladder.path), "--judge", f"{url}/v1#{tiny_folder()}", *PAIR),
            *("--items", "3", "--answer-tokens", "8", "--concurrency", "2", "--json"),
        )
        assert done.returncode == 0, done.stderr + (tmp_path / "serve.log").read_text()[-2000:]
        state = json.loads(done.stdout)
        assert (state["status"], state["done"], state["check"]["verdicts"]) == ("finished", 12, 12)
        assert state["completion_tokens"] > 0 and state["prompt_tokens"] > 0
        assert state["check"]["unreadable"] > 0.2 and state["unusable"]
        wrong = ftbench(
            "judge", str(ladder.path), "--judge", f"{url}/v1#no/such-model", *PAIR, "--items", "3", "--json"
        )
        assert wrong.returncode in (1, 2)
