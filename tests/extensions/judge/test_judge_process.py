"""`ftbench judge` as its user starts it: progress, stop, kill, refusals and the report."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from command import FTBENCH, SMALL
from forked import ftbench
from made_ladder import made_ladder
from planted_judge import noisy, perfect, plant_answers, plant_model, planted, slow
from served_model import served

from engine.config.errors import RunFailed
from engine.extensions.judge import judging, ladder_report
from engine.extensions.judge.judge_dir import JudgeDir, create_judge, judges
from engine.extensions.judge.judges import Question
from engine.extensions.judge.judging import Judging, prepare
from engine.extensions.judge.preferences import JudgePlan
from engine.hardware.devices import THE_CPU
from engine.ladder.report.page import escape_inline
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.queue import device_queue, locks
from engine.runs.stopping import StopRequest, StopRequested
from tui.extensions.judge import command as judge_command

PAIR = ("--pair", "full,base")
Found = TypeVar("Found")
REQUESTS = 60 * 2 * 2  # items, seeds, orders


@pytest.fixture
def ladder(tmp_path: Path) -> LadderDir:
    folder, _ = made_ladder(tmp_path / "runs", seeds=(0, 1))
    plant_answers(folder, {"base": 0.0, "qlora": 0.6, "lora": 0.7, "full": 1.2})
    return folder


def started(ladder: LadderDir, url: str, *more: str) -> subprocess.Popen[str]:
    words = [FTBENCH, "judge", str(ladder.path), "--judge", url, *PAIR, *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(look: Callable[[], Found | None]) -> Found:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (result := look()) is not None:
            return result
        time.sleep(0.02)
    raise AssertionError("timeout")


def judge_at_work(ladder: LadderDir, verdicts: int) -> JudgeDir:
    """Wait until the judge has this many verdicts."""

    def at_work(judge: JudgeDir) -> bool:
        file = judge.verdicts_file
        return judge.is_active() and file.exists() and file.read_bytes().count(b"\n") >= verdicts

    return wait_for(lambda: next(filter(at_work, judges(ladder)), None))


def test_a_killed_and_a_stopped_judge_continue_and_ask_nothing_twice(ladder: LadderDir) -> None:
    with planted(slow(0.05)) as server:
        process = started(ladder, server.name, "--concurrency", "4", "--json")
        judge = judge_at_work(ladder, 10)
        os.kill(judge.pid() or 0, signal.SIGKILL)
        _, error = process.communicate(timeout=120)
        failure = json.loads(error.splitlines()[-1])["error"]
        assert (process.returncode, failure["code"]) == (1, "judge.died") and str(judge.log_file) in failure["problem"]
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
        done = ftbench("judge", str(ladder.path), "--judge", server.name, *PAIR, "--json")
        assert done.returncode == 0, done.stderr
        printed = json.loads(done.stdout)
        assert (printed["status"], printed["done"], printed["requests"]) == ("finished", REQUESTS, REQUESTS)
        assert printed["rates"][0]["finding"] == "better"
        # Each start has one check; a killed or stopped one loses at most the requests that were under way.
        assert len(server.requests) <= REQUESTS + 3 + 2 * 4
        assert printed["unusable"] == []
    report, stored = ladder.markdown.read_text(), ladder.state()
    assert stored is not None
    (table,) = ladder_report.part(ladder).tables
    assert "planted" in table.title and table.title in report and table.title in ladder.page.read_text()
    assert "| full against base |" in report and printed["prompt"].rpartition("{rubric}")[2].strip() in report
    _, preferred = printed["sentences"]
    assert preferred.startswith("It prefers full ") and escape_inline(preferred) in report


def test_a_server_that_is_too_slow_is_reported_while_the_judge_waits(ladder: LadderDir) -> None:
    with planted(slow(4.0)) as server:
        process = started(ladder, server.name, "--timeout", "1", "--items", "2", "--concurrency", "2")
        assert process.stderr is not None
        assert any("[judge.waiting]" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    (judge,) = judges(ladder)
    state = judge.state()
    assert state is not None and (state.status, state.done) == ("stopped", 0) and "--timeout" in state.note


def test_a_judge_that_waits_for_a_busy_server_ends_at_once(ladder: LadderDir) -> None:
    limit = {"status": 429, "body": "limit of requests", "headers": {"Retry-After": "300"}}
    with planted(lambda request: limit if len(server.requests) > 5 else perfect(request)) as server:
        process = started(ladder, server.name, "--concurrency", "2")
        judge = judge_at_work(ladder, 4)
        wait_for(lambda: state if (state := judge.state()) and "limit of requests" in state.note else None)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
        assert process.returncode == 0 and time.monotonic() - began < 30  # of 300
    state = judge.state()
    assert state is not None and (state.status, state.done) == ("stopped", 4)


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
    """A model this small cannot judge: its verdicts are not readable, and it is called unusable."""
    with served(SMALL, tmp_path / "serve.log") as url:
        done = ftbench(
            *("judge", str(ladder.path), "--judge", f"{url}/v1#{SMALL}", *PAIR),
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


def judged_here(ladder: LadderDir, model: Path | str, *more: str) -> subprocess.CompletedProcess[str]:
    return ftbench("judge", str(ladder.path), "--judge", str(model), *PAIR, "--device", "cpu", "--json", *more)


def test_a_model_on_this_machine_is_a_judge_with_the_same_checks(ladder: LadderDir, tmp_path: Path) -> None:
    """One that always prefers the first answer: the statistics find out."""
    model = plant_model(tmp_path / "first", "Verdict: A")
    done = judged_here(ladder, model, "--items", "5")
    assert done.returncode == 0, done.stderr
    state = json.loads(done.stdout)
    assert (state["status"], state["done"], state["requests"]) == ("finished", 20, 20)
    assert (state["check"]["swapped"], state["check"]["first"], state["check"]["unreadable"]) == (1.0, 1.0, 0.0)
    assert state["rates"][0]["rate"]["mean"] == 0.5 and len(state["unusable"]) == 1
    assert state["prompt_tokens"] > 20 * 200 and state["completion_tokens"] == 20 * 8
    (judge,) = judges(ladder)
    assert judge.name.startswith("first-") and not judge.is_active()

    log = judge.log_file.read_bytes()
    again = json.loads(judged_here(ladder, model, "--items", "5").stdout)  # asks nothing: no model is loaded
    assert again["reused"] == 20 and again["rates"] == state["rates"] and judge.log_file.read_bytes() == log
    plant_model(model, "Verdict: B")  # other weights are another judge
    plan = JudgePlan(judge=str(model), rubric="", pairs=[("full", "base")], items=5)
    assert (prepare(ladder.path, plan).requests, prepare(ladder.path, plan).reused) == (20, 0)
    assert "first is unusable" in ladder.markdown.read_text()


def test_a_judge_on_this_machine_waits_for_its_device_and_continues_after_a_kill_or_stop(
    ladder: LadderDir, tmp_path: Path
) -> None:
    model, words = plant_model(tmp_path / "first", "Verdict: A"), ("--concurrency", "2", "--items", "15")
    submit = ThreadPoolExecutor().submit
    lock = locks.acquire(locks.device_lock("cpu"), f"{os.getpid()} {tmp_path / 'another'}")
    assert lock is not None
    killed = submit(judged_here, ladder, model, *words)
    try:
        judge = wait_for(
            lambda: next(
                (candidate for candidate in judges(ladder) if (s := candidate.state()) and "queue" in s.note), None
            )
        )
        assert [(place.place, place.run.name) for place in device_queue.queue_places()] == [
            (0, "another"),
            (1, "judge"),
        ]
    finally:
        os.close(lock)
    judge_at_work(ladder, 4)
    os.kill(judge.pid() or 0, signal.SIGKILL)
    done = killed.result(120)
    failure = json.loads(done.stderr.splitlines()[-1])["error"]
    assert (done.returncode, failure["code"]) == (1, "judge.died") and "SIGKILL" in failure["problem"]
    known = judge.verdicts_file.read_bytes().count(b"\n")
    assert 4 <= known < 60

    stopped = submit(judged_here, ladder, model, *words)
    judge = judge_at_work(ladder, known + 2)
    os.kill(judge.pid() or 0, signal.SIGTERM)  # as the command does when it gets SIGINT
    done = stopped.result(120)
    state = json.loads(done.stdout)
    assert (done.returncode, state["status"], state["reused"]) == (0, "stopped", known)
    assert known + 2 <= state["done"] < 60 and state["rates"]

    done = judged_here(ladder, model, *words)
    assert json.loads(done.stdout)["reused"] == state["done"] and json.loads(done.stdout)["done"] == 60


def replace_torch(monkeypatch: pytest.MonkeyPatch, folder: Path, statement: str) -> None:
    """Let a judge's process execute the statement instead of importing torch."""
    code = [
        "import sys, time",
        "from importlib.machinery import ModuleSpec",
        "class Finder:",
        "    def find_spec(self, name, path=None, target=None):",
        "        return ModuleSpec(name, self) if name == 'torch' else None",
        "    def create_module(self, spec): ...",
        f"    def exec_module(self, module): {statement}",
        "if 'engine.extensions.judge' in sys.orig_argv: sys.meta_path.insert(0, Finder())",
    ]
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("\n".join(code))
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_judge_is_stopped_while_its_model_is_loaded(
    ladder: LadderDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = plant_model(tmp_path / "first", "Verdict: A")
    replace_torch(monkeypatch, tmp_path / "slow", "time.sleep(600)")
    process = started(ladder, str(model), "--device", "cpu", "--items", "2", "--json")
    wait_for(lambda: next((j for j in judges(ladder) if (s := j.state()) and "loading" in s.note), None))
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    state = json.loads(output)
    assert (state["status"], state["reason"], state["done"]) == ("stopped", "stopped by request", 0)
    assert not next(judges(ladder)).is_active()


def test_a_library_that_cannot_be_imported_is_the_outcome_of_a_judge(
    ladder: LadderDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = plant_model(tmp_path / "first", "Verdict: A")
    replace_torch(monkeypatch, tmp_path / "broken", "raise OSError('libtorch.so: undefined symbol')")
    process = started(ladder, str(model), "--device", "cpu", "--items", "2", "--json")
    output, error = process.communicate(timeout=120)
    assert process.returncode == 1, error
    state = json.loads(output)
    assert (state["status"], state["reason_code"]) == ("failed", "engine.failed")
    assert "libtorch.so: undefined symbol; install ftbench again" in state["reason"]
    assert "Traceback" not in next(judges(ladder)).log_file.read_text()


def test_a_judge_that_does_not_end_after_a_stop_request_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge_command, "STOP_SECONDS", 0.1)
    with subprocess.Popen(["sh", "-c", "trap '' TERM; echo; exec sleep 600"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        try:
            with pytest.raises(RunFailed) as raised:
                judge_command.stopped(JudgeDir(tmp_path), process)
        finally:
            process.kill()
    assert raised.value.code == "judge.stop_timeout"


def test_the_model_of_a_judge_is_freed_before_the_statistics(
    ladder: LadderDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.extensions.judge import local_judge

    model, stopping = plant_model(tmp_path / "first", "Verdict: A"), StopRequest()
    loaded: list[weakref.ref[object]] = []
    freed: list[bool] = []
    conclude, load = judging.conclude, local_judge.load_pretrained

    def watched(*arguments: Any) -> Any:
        network = load(*arguments)
        loaded.append(weakref.ref(network))
        network.register_forward_hook(lambda *_: stopping.ask())  # the next token is not generated
        return network

    def concluded(*arguments: Any) -> None:
        freed.append(loaded[0]() is None)
        conclude(*arguments)

    monkeypatch.setattr(judging, "wait_for_devices", lambda *_: [THE_CPU])
    monkeypatch.setattr(type(THE_CPU), "apply", lambda device: None)
    monkeypatch.setattr(local_judge, "load_pretrained", watched)
    monkeypatch.setattr(judging, "conclude", concluded)
    plan = prepare(ladder.path, JudgePlan(judge=str(model), rubric="", pairs=[("full", "base")], items=2)).plan
    state = Judging(create_judge(ladder, plan), plan, stopping).run()
    assert (state.status, state.done, freed) == ("stopped", 0, [True])


@pytest.mark.parametrize(
    ("judge", "code"),
    [
        ("smolm2-135m", "model.not_found"),
        ("", "cli.empty_value"),
        ("localhost:8000/v1#m", "endpoint.invalid_url"),
        ("ann:s3cret@host/v1", "endpoint.invalid_url"),
        ("http://host/v1", "endpoint.no_model"),
    ],
)
def test_a_judge_that_is_no_model_is_refused_before_anything_is_written(
    ladder: LadderDir, judge: str, code: str
) -> None:
    done = judged_here(ladder, judge)
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["error"]["code"] == code
    assert "s3cret" not in done.stderr + done.stdout and not (ladder.path / "judgments").exists()


def test_a_prompt_that_is_too_long_for_the_model_is_no_verdict(ladder: LadderDir, tmp_path: Path) -> None:
    model = plant_model(tmp_path / "short", "Verdict: A", positions=256)
    state = json.loads(judged_here(ladder, model, "--items", "2", "--answer-tokens", "16").stdout)
    assert (state["status"], state["check"]["unreadable"], state["done"]) == ("finished", 1.0, 8)
    (judge,) = judges(ladder)
    assert b"more than the model's 256 positions" in judge.verdicts_file.read_bytes()


def test_a_judge_halves_a_batch_that_does_not_fit_and_reports_a_prompt_that_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.evaluation.generate import Generator
    from engine.extensions.judge.local_judge import LocalJudge

    model = plant_model(tmp_path / "first", "Verdict: A")
    judge = LocalJudge(JudgePlan(judge=str(model), rubric="", pairs=[], concurrency=4, answer_tokens=16))
    questions = [Question(str(number), f"Which one? {number}") for number in range(6)]
    generate = Generator._generate
    fits, tried = 2, list[int]()

    def limited(generator: Generator, model: Any, prompts: list[list[int]], finished: Any) -> list[list[int]]:
        tried.append(len(prompts))
        if len(prompts) > fits:
            raise MemoryError
        return generate(generator, model, prompts, finished)

    monkeypatch.setattr(Generator, "_generate", limited)
    replies = {question.key: answer for question, answer in judge.answers(questions, lambda: None)}
    assert tried == [4, 2, 2, 2] and replies.keys() == {question.key for question in questions}
    assert {getattr(answer, "text", "") for answer in replies.values()} == {"Verdict: A"}

    def stop() -> None:
        raise StopRequested

    with pytest.raises(StopRequested):
        list(judge.answers(questions, stop))
    fits = 0
    with pytest.raises(RunFailed) as raised:
        list(judge.answers(questions, lambda: None))
    assert raised.value.code == "judge.out_of_memory"


def test_an_os_error_of_the_check_is_raised_and_another_one_is_a_failure_of_the_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.extensions.judge.local_judge import LocalJudge

    model = plant_model(tmp_path / "first", "Verdict: A")
    judge = LocalJudge(JudgePlan(judge=str(model), rubric="", pairs=[], concurrency=4, answer_tokens=16))
    questions = [Question("0", "Which one?")]

    def disk_full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        list(judge.answers(questions, disk_full))

    def no_memory() -> int:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(os, "fork", no_memory)
    with pytest.raises(RunFailed) as raised:
        list(judge.answers(questions, lambda: None))
    assert raised.value.code == "engine.failed" and "Cannot allocate memory" in str(raised.value)
