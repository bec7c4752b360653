"""Client of a server with OpenAI's chat completions API: vLLM, Ollama, `transformers serve`, hosted ones.

A model is named by `http://host:8000/v1#name`. The key comes from the environment only: a key in an address would be in
the command line, which other users of the machine can read.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from engine.config.errors import RunFailed, UserError
from engine.config.redaction import Redactor
from engine.config.text import visible

if TYPE_CHECKING:
    import httpx

KEY_VARIABLE = "FTBENCH_API_KEY"
"""Environment variable of the key, for every server; `FTBENCH_API_KEY_HOST_NAME` is for one host."""
MAX_TRIES = 7
"""Attempts of a request, with delays of 0.5, 1, 2, 4, 8 and 16 s between them, or of what the server asks for."""
CHECK_TRIES = 2
"""Attempts of the first request: a server that is not there is told at once."""
MAX_BACKOFF, MAX_DELAY = 16.0, 60.0
"""Longest delay in seconds between attempts, and the longest that a server can ask for by Retry-After unless the client
is more patient."""
POLL_SECONDS = 0.2
"""Interval at which `ask_all` calls `check` while it waits for answers."""
MAX_RESPONSE_BYTES, MAX_ALL_RESPONSES = 1 << 20, 16 << 20
"""Of one response, and of all that are received at the same time."""
MAX_ALL_REQUESTS = 3 << 20
"""Characters of the requests under way: each is held in memory until its response."""
GRACE_SECONDS = 0.8
"""Time for requests under way to be answered after a stop or an error."""
MAX_ERROR_CHARACTERS = 300
TRANSIENT = (408, 409, 425, 429)
"""HTTP statuses, besides 5xx, after which the same request can succeed."""
TOO_LONG = re.compile(r"context.{0,10}(length|window|size)|maximum context|too long|too many tokens", re.I)
NO_SYSTEM_ROLE = re.compile(r"system.{0,3} (role|message|prompt).{0,20}(not|un).{0,5}(supported|allowed)", re.I)
"""What servers say where the chat template of the model has no system role."""
NOT_FOUND = re.compile(r"not.{0,12}(found|exist)", re.I)

RefusalKind = Literal["too_long", "system_role", "refused"]
Message = Mapping[str, Any]
Question = TypeVar("Question")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Endpoint:
    """A model of a server."""

    url: str
    """The address of the API without a final slash: `http://localhost:8000/v1`."""
    model: str
    """As the server names it."""

    @property
    def name(self) -> str:
        """`http://localhost:8000/v1#model`, without secrets."""
        return f"{self.url}#{self.model}"

    @property
    def key_variables(self) -> tuple[str, str]:
        """The environment variables that can contain its key, the more specific one first."""
        host = re.sub(r"[^A-Z0-9]", "_", (urlsplit(self.url).hostname or "").upper())
        return f"{KEY_VARIABLE}_{host}", KEY_VARIABLE

    def key(self, environment: Mapping[str, str] = os.environ) -> str:
        """The key, '' without one."""
        return next((environment[name] for name in self.key_variables if environment.get(name)), "")


def is_endpoint(text: str) -> bool:
    """Whether a word is an address of a server, and not the name of a method, model or run."""
    return re.match(r"https?://", text, re.IGNORECASE) is not None


def parse_endpoint(text: str, where: str) -> Endpoint:
    """The endpoint of `http://host:8000/v1#name`; `where`: the option that it comes from.

    Raises UserError for another form, and for credentials in the address: they never appear in the message.
    """
    address, _, model = text.strip().partition("#")
    example = "for example http://localhost:8000/v1#Qwen3-8B"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise UserError("invalid address of a server", where, example, "endpoint.invalid_url") from error
    if parts.username is not None or parts.query:
        problem = "credentials or a query in the address of a server"
        hint = f"remove them, and set the environment variable {KEY_VARIABLE} to the key"
        raise UserError(problem, where, hint, "endpoint.credentials")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError("invalid address of a server", where, example, "endpoint.invalid_url")
    if not model:
        problem = f"no model name after the address {visible(address, 200)}"
        raise UserError(problem, where, f"add it after #, {example}", "endpoint.no_model")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = f"{host}:{port}" if port else host
    return Endpoint(f"{parts.scheme}://{place}{parts.path.rstrip('/')}", model)


class ChatAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """An answer of a model."""

    text: str
    """'' for an empty answer."""
    reasoning: str = ""
    """What the server returned separately from the answer."""
    calls: list[dict[str, Any]] = []
    """Tool calls that the server found in the answer and returned separately: `name` and `arguments` of each."""
    finish: str = ""
    """`stop` if the model ended the answer, `length` if it was cut off; '' if the server does not say."""
    prompt_tokens: int | None = None
    """As the server counts them; None if it does not."""
    completion_tokens: int | None = None
    """Tokens of answer and reasoning."""
    seconds: float = 0.0
    """Latency of the request that succeeded."""


class EndpointRefusal(Exception):
    """The server refused one request, and would refuse it again: other requests can succeed."""

    def __init__(self, kind: RefusalKind, text: str) -> None:
        self.kind = kind
        """`too_long`: for the model's context; `system_role`: the chat template has none; `refused`: anything else."""
        super().__init__(text)


class _Transient(Exception):
    """A failure after which the same request can succeed."""

    def __init__(self, text: str, delay: float | None = None, is_busy: bool = False) -> None:
        self.delay, self.is_busy = delay, is_busy
        """Seconds that the server asks for; whether it answered with a status after which one waits."""
        super().__init__(text)


def parse_price(text: str | None, option: str) -> tuple[float, float] | None:
    """The prices of `0.15,0.6` per million tokens: of prompts, and of answers. Raises UserError for another form."""
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        prompt, completion = (float(word) for word in text.split(","))
        if 0 <= prompt < 1e6 and 0 <= completion < 1e6:
            return prompt, completion
    hint = "use two prices per million tokens, of prompts and of answers: 0.15,0.60"
    raise UserError(f"invalid price {text!r}", option, hint, "endpoint.price")


def token_cost(price: Sequence[float], prompt_tokens: int, completion_tokens: int) -> float:
    """The cost of these tokens, in the currency of the prices. `price`: as `parse_price` returns it."""
    return (prompt_tokens * price[0] + completion_tokens * price[1]) / 1e6


class EndpointClient:
    """Sends requests to one model of a server. Several threads can use it; `close` ends their waiting."""

    def __init__(self, endpoint: Endpoint, timeout: float = 120.0, concurrency: int = 8, patience: float = 0.0) -> None:
        """`timeout`: seconds of one attempt, from the request to the end of the answer. `patience`: seconds for which
        failing requests are repeated after the last tries, while the server answers none.
        """
        import httpx  # 0.1 s, and few commands need it

        from engine.config.http_client import bounded_client

        key = endpoint.key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self.endpoint, self.timeout, self.concurrency, self.patience = endpoint, timeout, concurrency, patience
        self._answered = 0.0
        """When the server answered last, by the monotonic clock."""
        self._redact = Redactor([key])
        self._closed = threading.Event()
        self._sending, self._sent_characters = threading.Condition(), 0
        # A redirect would send prompts and key to another place.
        max_bytes = min(MAX_RESPONSE_BYTES, MAX_ALL_RESPONSES // concurrency)
        options: dict[str, Any] = {"headers": headers, "limits": limits, "follow_redirects": False}
        self._http = bounded_client(httpx, max_bytes, timeout, bounds_wait=False, **options)

    def close(self) -> None:
        """End all requests, and close the connections."""
        self._end_requests()
        self._http.close()

    def _end_requests(self) -> None:
        self._closed.set()
        self._http.ended.set()
        with self._sending:
            self._sending.notify_all()

    def check(self, stopping: Callable[[], None] = lambda: None) -> None:
        """Ask the model for one token. Raises UserError for a wrong key or model, RunFailed if there is no answer.

        `stopping` is called while it waits, and may raise.
        """
        question = [{"role": "user", "content": "Answer with OK."}]
        try:
            for _ in self.ask_all([question], lambda asked: self.chat(asked, 1, tries=CHECK_TRIES), stopping):
                pass
        except EndpointRefusal as error:
            problem = f"the server refuses a request of one word ({error})"
            raise UserError(problem, self.endpoint.name, "check the server's log", "endpoint.refused") from error

    def models(self) -> list[str]:
        """The names of the server's models; none if it does not list them."""
        try:
            listed = self._attempt("GET", "/models", None)
        except (_Transient, EndpointRefusal, UserError, RunFailed):
            return []
        entries = listed.get("data") if isinstance(listed, dict) else None
        return [str(entry["id"]) for entry in entries or [] if isinstance(entry, dict) and "id" in entry]

    def chat(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        tried: Callable[[str], None] = lambda why: None,
        tries: int = MAX_TRIES,
        tools: Sequence[Any] | None = None,
    ) -> ChatAnswer:
        """The most likely answer to a conversation (temperature 0).

        `tried` is told why an attempt failed that is repeated. Raises EndpointRefusal if only this request is refused,
        UserError for a wrong key, model or address, and RunFailed if the server answers neither in `tries` attempts nor
        within the client's patience.
        """
        request: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": _api_messages(messages),
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": False,
        }
        if tools:
            request["tools"] = [
                tool if not isinstance(tool, dict) or "function" in tool else {"type": "function", "function": tool}
                for tool in tools
            ]
        first, attempt = time.monotonic(), 0
        while True:
            attempt, began = attempt + 1, time.monotonic()
            try:
                answer = self._answer(self._attempt("POST", "/chat/completions", request), time.monotonic() - began)
            except _Transient as error:
                left = self._patience_left(first) if tries == MAX_TRIES or error.is_busy else 0.0
                if (attempt >= tries and left <= 0) or self._closed.is_set():
                    text = f"no answer from {self.endpoint.name} after {attempt} attempts: {error}"
                    raise RunFailed(text, "endpoint.unavailable") from error
                tried(f"attempt {attempt} failed: {error}")
                self._closed.wait(_delay(attempt, error.delay, left))
            else:
                self._answered = time.monotonic()
                return answer

    def _patience_left(self, first: float) -> float:
        """Seconds for which a request that was first sent at this time is still repeated."""
        return max(first, self._answered) + self.patience - time.monotonic()

    def ask_all(
        self, questions: Iterable[Question], ask: Callable[[Question], Answer], check: Callable[[], None]
    ) -> Iterator[Answer]:
        """What `ask` returns for each question, in the order of arrival; `concurrency` threads call it.

        A question is taken when a thread is free. `check` is called at least every POLL_SECONDS. If `check` or `ask`
        raises, requests under way have GRACE_SECONDS; their answers are yielded, and the error is raised.
        """
        waiting, running = iter(questions), set[Future[Answer]]()
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            while True:
                running |= {pool.submit(ask, question) for question in islice(waiting, self.concurrency - len(running))}
                if not running:
                    return
                done, running = wait(running, POLL_SECONDS, FIRST_COMPLETED)
                for answered in sorted(done, key=lambda future: future.exception() is not None):
                    yield answered.result()
                check()
        except Exception:
            self._closed.set()
            wait(running, GRACE_SECONDS)
            self._end_requests()
            for answered in as_completed(running):
                if answered.exception() is None:
                    yield answered.result()
            raise
        finally:
            if running:  # interrupted, or closed
                self._end_requests()
            pool.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def _place(self, request: dict[str, Any] | None) -> Iterator[None]:
        """Wait until this request and those under way have at most MAX_ALL_REQUESTS characters, or it is alone."""
        messages = (request or {}).get("messages", ())
        count = sum(len(str(message.get("content") or "")) for message in messages)

        def is_free() -> bool:
            fits = self._sent_characters + count <= MAX_ALL_REQUESTS
            return fits or not self._sent_characters or self._closed.is_set()

        with self._sending:
            self._sending.wait_for(is_free)
            self._sent_characters += count
        try:
            yield
        finally:
            with self._sending:
                self._sent_characters -= count
                self._sending.notify_all()

    def _attempt(self, method: str, path: str, request: dict[str, Any] | None) -> Any:
        """The JSON of one response. Raises _Transient, EndpointRefusal, UserError and RunFailed."""
        import httpx

        response, failure, is_closed = None, "", False
        with self._place(request):
            try:
                response = self._send(method, path, request)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                failure = self._shown(str(error).rstrip(".") or type(error).__name__)
            except RuntimeError:  # `close` of another thread
                is_closed = True
        if is_closed:
            raise RunFailed("the client was closed", "endpoint.closed")
        if response is None:  # raised here: with the library's error as context it would hold the request
            raise _Transient(failure)
        if response.is_success:
            try:
                return msgspec.json.decode(response.content)
            except (ValueError, RecursionError) as error:
                raise _Transient("the response is not JSON") from error
        raise self._refusal(response)

    def _send(self, method: str, path: str, request: dict[str, Any] | None) -> httpx.Response:
        if self._closed.is_set():
            raise RuntimeError("the client was closed")
        content = None if request is None else msgspec.json.encode(request)
        headers = {"Content-Type": "application/json"} if content else {}
        response: httpx.Response = self._http.request(
            method, f"{self.endpoint.url}{path}", content=content, headers=headers
        )
        return response

    def _refusal(self, response: httpx.Response) -> Exception:
        """The error of a response without success."""
        body = response.content
        try:  # the error message in the JSON forms that servers use, else the text of the body
            content = msgspec.json.decode(body)
            for key in ("error", "detail", "message"):
                if isinstance(content, dict) and content.get(key):
                    content = content[key]
            text = content if isinstance(content, str) else msgspec.json.encode(content).decode()
        except (ValueError, RecursionError):
            text = body[:2000].decode("utf-8", "replace")
        status = response.status_code
        shown = self._shown(f"HTTP {status}: {text}" if text else f"HTTP {status} {response.reason_phrase}")
        if status in (401, 403):
            first, general = self.endpoint.key_variables
            given = next((name for name in (first, general) if os.environ.get(name)), "")
            hint = f"check the key in {given}" if given else f"set the environment variable {general} to the key"
            problem = f"the server refuses the {'key' if given else 'request without a key'} ({shown})"
            return UserError(problem, self.endpoint.name, hint, "endpoint.unauthorized")
        if NO_SYSTEM_ROLE.search(text):
            return EndpointRefusal("system_role", shown)
        if status < 500 and TOO_LONG.search(text):
            return EndpointRefusal("too_long", shown)
        if status in (400, 404, 422) and "model" in text.lower() and NOT_FOUND.search(text):
            known = ", ".join(visible(name, 80) for name in self.models()[:12])
            hint = f"use one of {known}" if known else "check the name after #"
            return UserError(f"unknown model ({shown})", self.endpoint.name, hint, "endpoint.unknown_model")
        if status in (404, 405) or 300 <= status < 400:
            problem = f"not an address of a chat completions API ({shown})"
            hint = "check the address: it mostly ends with /v1"
            return UserError(problem, self.endpoint.name, hint, "endpoint.not_found")
        if status in TRANSIENT or status >= 500:
            return _Transient(shown, _retry_after(response.headers), is_busy=True)
        return EndpointRefusal("refused", shown)

    def _answer(self, content: Any, seconds: float) -> ChatAnswer:
        """Raises _Transient for a response in another form."""
        try:
            response = msgspec.convert(content, _Response, strict=False)
            choice = response.choices[0]
        except (msgspec.ValidationError, IndexError) as error:
            raise _Transient("the response is not that of a chat completions API") from error
        message, usage, content = choice.message, response.usage or _Usage(), choice.message.content
        if isinstance(content, list):
            content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
        return ChatAnswer(
            text=content or "",
            reasoning=message.reasoning_content or message.reasoning or "",
            calls=[_call(call) for call in message.tool_calls or []],
            finish=choice.finish_reason or "",
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            seconds=seconds,
        )

    def _shown(self, text: str) -> str:
        """A text of the server without the key, on one line."""
        return visible(" ".join(self._redact(text).split()), MAX_ERROR_CHARACTERS)


def _delay(attempt: int, asked: float | None, left: float) -> float:
    """Seconds until the next attempt; `asked`: by the server, `left`: of the client's patience."""
    if asked is not None:
        return min(asked, max(MAX_DELAY, left))
    return min(MAX_BACKOFF, 0.5 * 2.0 ** min(attempt - 1, 10)) * random.uniform(0.8, 1.2)  # threads at other times


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The delay that a server asks for, in seconds or as a date (RFC 9110, 10.2.3); None for anything else."""
    asked = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", asked):
        return float(asked)
    with contextlib.suppress(ValueError):
        until = parsedate_to_datetime(asked).replace(tzinfo=UTC)  # such a date is always GMT
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    return None


class _Message(msgspec.Struct):
    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Response(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


def _call(content: Any) -> dict[str, Any]:
    """Name and arguments of a tool call; arguments that are not JSON stay text."""
    function = content.get("function") if isinstance(content, dict) else None
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError, RecursionError):
            arguments = msgspec.json.decode(arguments)
    return {"name": function.get("name"), "arguments": arguments}


def _api_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as the API takes them: tool calls with ids and with arguments as text, results with the calls' ids."""
    converted: list[dict[str, Any]] = []
    waiting: list[str] = []
    for number, message in enumerate(messages):
        shown = dict(message)
        if calls := shown.get("tool_calls"):
            waiting = [str(call.get("id") or f"call_{number}_{place}") for place, call in enumerate(calls)]
            functions = [dict(call.get("function") or call) for call in calls]
            for function in functions:
                if not isinstance(function.get("arguments"), str):
                    function["arguments"] = msgspec.json.encode(function.get("arguments") or {}).decode()
            shown["tool_calls"] = [
                {"id": name, "type": "function", "function": function}
                for name, function in zip(waiting, functions, strict=True)
            ]
            shown.setdefault("content", "")
        elif shown.get("role") == "tool" and not shown.get("tool_call_id") and waiting:
            shown["tool_call_id"] = waiting.pop(0)
        converted.append(shown)
    return converted
