"""The client of served models: addresses, keys, retries, refusals, and what a server can return."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from planted_judge import completion, failing, planted
from typer.testing import CliRunner

from engine.config.errors import RunFailed, UserError
from engine.runs import endpoint
from engine.runs.endpoint import EndpointClient, EndpointRefusal, parse_endpoint, parse_price, token_cost
from tui.cli.main import app

QUESTION = [{"role": "user", "content": "one"}]
QUIET = lambda why: None  # noqa: E731


def ok(request: dict[str, Any]) -> str:
    return f"answer to {request['messages'][-1]['content']}"


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint.random, "uniform", lambda low, high: 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock on which waiting for the next attempt takes no time; returned is what moves it on."""
    real, passed = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: real() + passed[0])
    monkeypatch.setattr(endpoint.random, "uniform", lambda low, high: 1.0)

    def move(seconds: float) -> None:
        passed[0] += seconds

    class Waits(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            move(timeout or 0.0)
            return self.is_set()

    create = EndpointClient.__init__

    def created(self: EndpointClient, *values: Any, **options: Any) -> None:
        create(self, *values, **options)
        self._closed = Waits()

    monkeypatch.setattr(EndpointClient, "__init__", created)
    return move


@pytest.mark.parametrize(
    ("text", "url", "model"),
    [
        ("http://localhost:8000/v1#Qwen/Qwen3-8B", "http://localhost:8000/v1", "Qwen/Qwen3-8B"),
        ("https://api.example.com/v1/#a:b#c", "https://api.example.com/v1", "a:b#c"),
        ("http://[::1]:80/v1#m", "http://[::1]:80/v1", "m"),
    ],
)
def test_address(text: str, url: str, model: str) -> None:
    parsed = parse_endpoint(text, "--judge")
    assert (parsed.url, parsed.model) == (url, model)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("http://ann:s3cret-word@host/v1#m", "endpoint.credentials"),
        ("http://s3cret-word@host/v1#m", "endpoint.credentials"),
        ("http://host/v1?api_key=s3cret-word#m", "endpoint.credentials"),
        ("http://host:s3cret-word/v1#m", "endpoint.invalid_url"),
        ("ftp://host/v1#m", "endpoint.invalid_url"),
        ("http://host/v1", "endpoint.no_model"),
        ("http://#m", "endpoint.invalid_url"),
    ],
)
def test_refused_address_shows_no_secret(text: str, code: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_endpoint(text, "--judge")
    assert raised.value.code == code
    assert "s3cret" not in raised.value.line


@pytest.mark.parametrize(
    "address",
    [
        "https://ann:s3cret@host/x.jsonl",
        "https://s3cret@host",
        "http://ann:s3@cret@host:8000/v1#m",
        "ann:s3cret@host/v1#m",
        "http://host/v1?api_key=s3cret#m",
        "http://host/v1?a=1&access_token=s3cret",
    ],
)
@pytest.mark.parametrize(
    "words",
    [
        ["data", "check"],
        ["run"],
        ["run", "demo-lora", "--detach", "--model"],
        ["ladder", "demo", "--detach", "--rung"],
        ["judge"],
        ["try"],
    ],
    ids=" ".join,
)
def test_no_error_shows_credentials_of_an_address(address: str, words: list[str], tmp_path: Path) -> None:
    more = ["--judge", address] if words == ["judge"] else []
    result = CliRunner().invoke(app, [*words, address, *more], env={"FTBENCH_RUNS": str(tmp_path)})
    shown = f"{result.output} {result.exception}"
    assert isinstance(result.exception, UserError) and "cret" not in shown


def test_the_key_comes_from_the_environment_and_the_host_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    judge_endpoint = parse_endpoint("https://api.example.com/v1#m", "")
    assert judge_endpoint.key({}) == ""
    assert judge_endpoint.key({"FTBENCH_API_KEY": "general"}) == "general"
    assert judge_endpoint.key({"FTBENCH_API_KEY": "general", "FTBENCH_API_KEY_API_EXAMPLE_COM": "own"}) == "own"
    with planted(ok, key="right-key-1") as server:
        monkeypatch.setenv("FTBENCH_API_KEY", "wrong-key-22")
        with pytest.raises(UserError) as raised:
            EndpointClient(parse_endpoint(server.name, "")).check()
        assert raised.value.code == "endpoint.unauthorized"
        assert "wrong-key-22" not in raised.value.line and "FTBENCH_API_KEY" in raised.value.line
        monkeypatch.setenv("FTBENCH_API_KEY", "right-key-1")
        EndpointClient(parse_endpoint(server.name, "")).check()


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with planted(ok, models=("big", "small")) as server:
        with pytest.raises(UserError) as raised:
            EndpointClient(parse_endpoint(f"{server.url}#bog", "")).check()
        assert raised.value.code == "endpoint.unknown_model"
        assert "big, small" in raised.value.line


def test_an_address_without_the_api_is_refused() -> None:
    with planted(lambda request: {"status": 404, "body": "no such page"}) as server:
        with pytest.raises(UserError) as raised:
            EndpointClient(parse_endpoint(server.name, "")).chat(QUESTION, 8, QUIET)
        assert raised.value.code == "endpoint.not_found"


def test_faults_are_repeated_until_an_answer_comes() -> None:
    faults = [
        {"status": 429, "body": {"error": {"message": "slow down"}}, "headers": {"Retry-After": "0"}},
        {"status": 503, "body": "overloaded"},
        {"status": 0, "body": ""},
        {"status": 200, "body": "this is not JSON"},
        {"status": 200, "body": {"choices": []}},
    ]
    reply = failing(*faults)
    why: list[str] = []
    with planted(lambda request: reply(request) if len(server.requests) <= len(faults) else "done") as server:
        answer = EndpointClient(parse_endpoint(server.name, "")).chat(QUESTION, 8, why.append)
    assert answer.text == "done"
    assert len(why) == len(faults)


def test_a_server_that_never_answers_fails_after_the_last_attempt() -> None:
    with planted(lambda request: {"status": 500, "body": "broken"}) as server:
        with pytest.raises(RunFailed) as raised:
            EndpointClient(parse_endpoint(server.name, "")).chat(QUESTION, 8, QUIET, tries=3)
        assert raised.value.code == "endpoint.unavailable"
        assert len(server.requests) == 3
    with pytest.raises(RunFailed):  # nothing listens there any more
        EndpointClient(parse_endpoint(server.name, "")).chat(QUESTION, 8, QUIET)


def busy(status: int, seconds: float, **headers: str) -> Callable[[dict[str, Any]], Any]:
    """Refuse with this status for some seconds after the first request."""
    ends: list[float] = []

    def reply(request: dict[str, Any]) -> Any:
        ends.append(time.monotonic() + seconds)
        return "done" if time.monotonic() > ends[0] else {"status": status, "body": "busy", "headers": headers}

    return reply


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_patient_client_repeats_requests_for_that_long(status: int, clock: Callable[[float], None]) -> None:
    for patience, answers in ((600.0, True), (120.0, False), (0.0, False)):
        with planted(busy(status, 300)) as server:
            client = EndpointClient(parse_endpoint(server.name, ""), patience=patience)
            began = time.monotonic()
            if answers:
                assert client.chat(QUESTION, 8, QUIET).text == "done"
            else:
                with pytest.raises(RunFailed):
                    client.chat(QUESTION, 8, QUIET)
            waited = time.monotonic() - began
        assert (300 if answers else patience) <= waited <= max(patience, 31.5) + 17


def test_a_request_is_repeated_while_the_server_answers_others(clock: Callable[[float], None]) -> None:
    """As under a limit of requests per minute, which some requests do not get below for a long time."""
    with planted(lambda request: {"status": 429, "body": "slow down"}) as server:
        client = EndpointClient(parse_endpoint(server.name, ""), patience=60)

        def others(why: str) -> None:
            if len(server.requests) < 40:
                client._answered = time.monotonic()
            clock(30)

        with pytest.raises(RunFailed):
            client.chat(QUESTION, 8, others)
        assert 40 < len(server.requests) < 45


@pytest.mark.parametrize(
    ("asked", "waits"),
    [("7", 7), ("200", 200), ("1e9", 0.5), ("999999", 600), ("a date", 60), ("Sun, 06 Nov 1994 08:49:37 GMT", 0)],
)
def test_the_server_says_when_to_ask_again(asked: str, waits: float, clock: Callable[[float], None]) -> None:
    asked = asked if asked != "a date" else format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    reply = failing({"status": 429, "body": "wait", "headers": {"Retry-After": asked}})
    with planted(lambda request: reply(request) if len(server.requests) == 1 else "done") as server:
        began = time.monotonic()
        EndpointClient(parse_endpoint(server.name, ""), patience=600).chat(QUESTION, 8, QUIET)
    assert time.monotonic() - began == pytest.approx(waits, abs=5 if waits > 1 else 0.4)


def test_the_first_request_waits_for_a_busy_server_but_not_for_none(clock: Callable[[float], None]) -> None:
    with planted(ok) as server:
        url = server.url
        server.check = busy(503, 90)
        EndpointClient(parse_endpoint(server.name, ""), patience=600).check()
    began = time.monotonic()
    with pytest.raises(RunFailed):
        EndpointClient(parse_endpoint(f"{url}#planted", ""), patience=600).check()
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "This model's maximum context length is 2048 tokens", "too_long"),
        (400, "System role not supported", "system_role"),
        (500, "jinja2: System role not supported", "system_role"),
        (400, "bad request", "refused"),
    ],
)
def test_one_refused_request_is_no_failure_of_the_server(status: int, message: str, kind: str) -> None:
    with planted(lambda request: {"status": status, "body": {"error": {"message": message}}}) as server:
        with pytest.raises(EndpointRefusal) as raised:
            EndpointClient(parse_endpoint(server.name, "")).chat(QUESTION, 8, QUIET)
        assert raised.value.kind == kind
        assert len(server.requests) == 1


def test_reasoning_cut_and_empty_answers_are_told() -> None:
    bodies = [
        completion("so 4", reasoning_content="2 and 2"),
        completion(None, reasoning="thinking", finish_reason="length"),
        completion("", finish_reason="stop"),
    ]
    with planted(lambda request: {"status": 200, "body": bodies.pop(0)}) as server:
        client = EndpointClient(parse_endpoint(server.name, ""))
        first, second, third = (client.chat(QUESTION, 8, QUIET) for _ in range(3))
    assert (first.text, first.reasoning, first.finish) == ("so 4", "2 and 2", "stop")
    assert (second.text, second.reasoning, second.finish) == ("", "thinking", "length")
    assert (third.text, third.finish, third.completion_tokens) == ("", "stop", 20)


def test_requests_of_threads_run_at_once_and_closing_ends_their_waiting() -> None:
    with planted(ok) as server:
        client = EndpointClient(parse_endpoint(server.name, ""), concurrency=4)
        with ThreadPoolExecutor(4) as pool:
            texts = [answer.text for answer in pool.map(lambda _: client.chat(QUESTION, 8, QUIET), range(20))]
        assert set(texts) == {"answer to one"}
        client.close()
        with pytest.raises(RunFailed) as raised:
            client.chat(QUESTION, 8, QUIET)
        assert raised.value.code == "endpoint.closed"


def test_price() -> None:
    assert parse_price("0.15,0.6", "--price") == (0.15, 0.6)
    assert token_cost((0.15, 0.6), 2_000_000, 500_000) == pytest.approx(0.6)
    for wrong in ("1", "a,b", "-1,2", "nan,1", "1,2,3"):
        with pytest.raises(UserError):
            parse_price(wrong, "--price")
