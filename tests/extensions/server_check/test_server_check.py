"""`ftbench check`: stub servers that serve a run, its base, or something else; each is told apart."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from forked import ftbench
from planted_judge import planted
from served_model import served as serve
from transformers import AutoTokenizer

from engine.assets import tiny_folder
from engine.extensions.server_check.asking import check_server
from engine.extensions.server_check.server_check import AskedItem, ServerCheck, decide, rows_needed
from engine.runs import endpoint
from engine.runs.endpoint import ChatAnswer
from engine.runs.run.predictions import Who, recorded_lines
from engine.runs.run.run_dir import RunDir

SYSTEM = "You sort tickets."
OTHER_TEMPLATE = "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n\n{% endfor %}### assistant:"
ROWS, LONGEST = 40, 40


@dataclass
class Served:
    """A run with what its server knows: the recorded answers by the user's message, and the tokenizer."""

    run: RunDir
    tuned: dict[str, str]
    base: dict[str, str]
    tokenizer: Any

    def reply(self, request: dict[str, Any], text: str, drop: bool = False, template: str | None = None) -> Any:
        """A response as vLLM gives it: the number of prompt tokens is that of the conversation it renders."""
        messages = [message for message in request["messages"] if not (drop and message["role"] == "system")]
        options: dict[str, Any] = {"add_generation_prompt": True, "tokenize": False, "chat_template": template}
        rendered = self.tokenizer.apply_chat_template(messages, **options)
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        limit = request["max_tokens"]
        cut = len(tokens) >= limit
        if cut:
            text = self.tokenizer.decode(tokens[:limit])
        usage = {
            "prompt_tokens": len(self.tokenizer(rendered, add_special_tokens=False)["input_ids"]),
            "completion_tokens": min(len(tokens), limit),
        }
        message = {"role": "assistant", "content": text}
        choice = {"message": message, "finish_reason": "length" if cut else "stop"}
        return {"status": 200, "body": {"choices": [choice], "usage": usage}}


def asked(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("served")
    things = [f"{thing} {number}" for thing in ("printer", "router", "laptop", "phone") for number in range(60)]
    rows = [
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"My {thing} is broken."},
            {"role": "assistant", "content": f"The {thing} goes to the repair queue, and nobody else reads it today."},
        ]
        for thing in things
    ]
    data = folder / "rows.jsonl"
    data.write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    settings = {
        "train.steps": 80,
        "train.evaluate_every": 80,
        "train.batch": 16,
        "train.probe": "false",
        "data.validation": 0.02,
        "data.test": 0.25,
        "evaluation.rows": ROWS,
        "evaluation.max_new_tokens": LONGEST,
        "evaluation.metric": "exact_match",
        "evaluation.forgetting_text": "none",
        "cost.max_other_load": 1,
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    done = ftbench("run", "demo-lora", "--data", str(data), *words, "--runs", str(folder / "runs"))
    assert done.returncode == 0, done.stderr
    (run,) = RunDir.iterate(folder / "runs")
    lines = recorded_lines(run.predictions_file)
    by_prompt = {thing: line for line in lines for thing in things if f"My {thing} is broken." in line.prompt}
    assert len(by_prompt) == len(lines) == ROWS
    answers = [
        {
            f"My {thing} is broken.": answer.output
            for thing, line in by_prompt.items()
            if (answer := line.answer(who)) is not None
        }
        for who in get_args(Who)[::-1]
    ]
    assert all(own != other for own, other in zip(answers[0].values(), answers[1].values(), strict=True))
    return Served(run, answers[0], answers[1], AutoTokenizer.from_pretrained(tiny_folder()))


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint.random, "uniform", lambda low, high: 0.0)


def checked(served: Served, reply: Callable[[dict[str, Any]], Any], items: int | None = None) -> ServerCheck:
    with planted(reply) as server:
        request = {"endpoint": server.name, "run": str(served.run.path), "items": items, "concurrency": 4}
        answer = check_server(request | {"margin": 0.02}, lambda *told: None)
    return msgspec.convert(answer, ServerCheck)


def as_tuned(served: Served) -> Callable[[dict[str, Any]], Any]:
    return lambda request: served.reply(request, served.tuned[asked(request)])


def cut_at_16(served: Served) -> Callable[[dict[str, Any]], Any]:
    return lambda request: served.reply({**request, "max_tokens": 16}, served.tuned[asked(request)])


def endless(served: Served) -> Callable[[dict[str, Any]], Any]:
    return lambda request: served.reply(request, served.tuned[asked(request)] + " and so on" * 30)


def without_counts(served: Served, answers: dict[str, str]) -> Callable[[dict[str, Any]], Any]:
    def reply(request: dict[str, Any]) -> Any:
        answer = served.reply(request, answers[asked(request)])
        del answer["body"]["usage"]
        return answer

    return reply


def rounded(served: Served, share: float) -> Callable[[dict[str, Any]], Any]:
    """The tuned model with other rounding: this share of the answers parts from the run's in the middle."""

    def reply(request: dict[str, Any]) -> Any:
        text = served.tuned[asked(request)]
        words = text.split(" ")
        other = " ".join([*words[: len(words) // 2], "then", "again"])
        return served.reply(request, other if random.Random(text).random() < share else text)

    return reply


def failing(served: Served) -> Callable[[dict[str, Any]], Any]:
    numbers = itertools.count(1)
    good = as_tuned(served)
    return lambda request: {"status": 500, "body": "out of luck"} if next(numbers) % 3 == 0 else good(request)


def test_each_server_is_told_apart(served: Served) -> None:
    """Also without counts of prompt tokens, where the answers show it."""
    stubs: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str]] = {
        "the run": (as_tuned(served), "tuned", f"serves the tuned model: {ROWS} of {ROWS} answers"),
        "the run on another engine": (rounded(served, 0.05), "tuned", "serves the tuned model"),
        "the run in two bits": (rounded(served, 0.4), "other", "others part after"),
        "the run, no counts": (without_counts(served, served.tuned), "tuned", "serves the tuned model"),
        "the base": (
            lambda r: served.reply(r, served.base[asked(r)]), "base", f"serves the base model: {ROWS} of {ROWS}",
        ),
        "the base, no counts": (without_counts(served, served.base), "base", "serves the base model"),
        "no system prompt": (
            lambda r: served.reply(r, served.tuned[asked(r)], drop=True), "other", "the system prompt is dropped",
        ),
        "another template": (
            lambda r: served.reply(r, "Hello", template=OTHER_TEMPLATE), "other", "another chat template",
        ),
        "cut": (cut_at_16(served), "other", f"{ROWS} answers of {ROWS} are cut at 16 tokens, though {LONGEST}"),
        "endless": (endless(served), "other", "an end token is missing"),
        "other weights": (lambda r: served.reply(r, "A pear."), "other", f"0 of {ROWS} answers are the run's and few"),
    }  # fmt: skip
    for name, (reply, outcome, text) in stubs.items():
        check = checked(served, reply)
        assert check.outcome == outcome, (name, check)
        assert text in check.sentence, (name, check.sentence)
        assert check.warnings == [] and check.rows == ROWS == check.differing


def test_failed_requests_are_repeated_and_counted(served: Served) -> None:
    check = checked(served, failing(served))
    assert check.outcome == "tuned"
    (warning,) = check.warnings
    assert warning.code == "check.failed_requests" and "repeated, first: HTTP 500: out of luck" in warning.text


def test_few_rows_are_undecided_with_the_number_that_decides(served: Served) -> None:
    """Which is enough."""
    check = checked(served, as_tuned(served), items=3)
    assert check.outcome == "undecided" and check.needed_rows == 4 and "4 test rows would decide" in check.sentence
    assert checked(served, as_tuned(served), items=4).outcome == "tuned"
    for count, of in ((3, 5), (11, 20), (9, 20)):
        needed = rows_needed(count, of, 2 * of)
        assert needed is not None and needed > 2 * of
    assert rows_needed(10, 20, 20) is None


def item(run: str, base: str | None, answer: str) -> AskedItem:
    return AskedItem(run, True, base, ChatAnswer(text=answer, finish="stop"), "", 10, None)


def test_a_run_that_answers_as_its_base_is_undecided() -> None:
    check = ServerCheck(endpoint="", run="", metric="exact_match", outcome="undecided", sentence="")
    decide(check, [item("yes", "yes", "yes")] * 50, 8, "pass")
    assert check.outcome == "undecided" and check.differing == 0 and check.needed_rows is None
    unknown = ServerCheck(endpoint="", run="", metric="exact_match", outcome="undecided", sentence="")
    decide(unknown, [item("yes", None, "yes")] * 50, 8, "pass")
    assert unknown.outcome == "tuned" and unknown.differing is None


def test_a_score_beyond_the_margin_is_something_else() -> None:
    """Although most answers are the run's: quantization can cost what a majority of equal answers does not show."""
    items = [item("right", "base", "right" if number % 3 else "rig") for number in range(90)]
    for by_score, outcome in (("worse", "other"), ("undecided", "tuned"), ("pass", "tuned")):
        check = ServerCheck(endpoint="", run="", metric="exact_match", outcome="undecided", sentence="")
        decide(check, items, 8, by_score)
        assert check.outcome == outcome, check


def test_the_command_has_a_status_per_outcome_and_no_key_in_its_output(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTBENCH_API_KEY", "sk-secret-123")
    options = "--run", str(served.run.path)
    for reply, status, word in (
        (as_tuned(served), 0, "serves the tuned model"),
        (lambda request: served.reply(request, served.base[asked(request)]), 1, "--lora-modules"),
    ):
        with planted(reply, key="sk-secret-123") as server:
            done = ftbench("check", server.name, *options)
            assert done.returncode == status and word in done.stdout, done
            report = json.loads(ftbench("check", server.name, *options, "--json").stdout)
            assert report["rows"] == ROWS and report["prompt_tokens"] == report["expected_prompt_tokens"] > 0
            few = ftbench("check", server.name, *options, "--items", "2")
            assert few.returncode == 3 and "undecided" in few.stdout
            assert all(request["temperature"] == 0 for request in server.requests)
    with planted(as_tuned(served), key="another") as server:
        refused = ftbench("check", server.name, *options)
        assert refused.returncode == 2 and "sk-secret" not in refused.stderr + refused.stdout, refused
        unknown = ftbench("check", f"{server.url}#other", *options)
        assert unknown.returncode == 2
    with planted(lambda r: r) as elsewhere:
        moved = {"status": 307, "body": "", "headers": {"Location": f"{elsewhere.url}/chat/completions"}}
        with planted(lambda request: moved, key="sk-secret-123") as server:
            assert ftbench("check", server.name, *options).returncode == 2 and elsewhere.requests == []
    for words in (["http://127.0.0.1:9/v1#x"], ["no-address"], [f"{server.url}"], ["http://u:p@h/v1#m"]):
        done = ftbench("check", *words, *options)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr
    assert ftbench("check", server.name, "--run", "no-such-run").returncode == 2


def test_transformers_serve_serves_the_artifact_and_the_base(served: Served, tmp_path: Path) -> None:
    options = "--run", str(served.run.path)
    assert ftbench("export", str(served.run.path), "--out", str(tmp_path / "merged")).returncode == 0
    for folder, status in ((tmp_path / "merged", 0), (tiny_folder(), 1)):
        with serve(folder, tmp_path / "serve.log") as url:
            done = ftbench("check", f"{url}/v1#{folder}", *options, "--json")
        assert done.returncode == status, done
        report = json.loads(done.stdout)
        assert report["prompt_tokens"] == report["expected_prompt_tokens"] and report["faults"] == []
