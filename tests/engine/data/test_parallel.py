"""A chat template that exceeds its limit of time or memory is refused with what to do, whatever it calls."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from engine.config.errors import RunFailed, UserError
from engine.config.schema import Data, Model
from engine.data import parallel
from engine.data.chat_template import ChatTemplate, end_of_turn, render_in_child
from engine.data.check import check
from engine.data.parallel import in_child, run_template, template_memory
from engine.data.tokens import RowTokenizer
from engine.methods.model_source import load_tokenizer

SECONDS = 0.25
MEMORY = 256 << 20
ENDLESS = {
    "a range": ("{% for i in range(10**12) %}{% endfor %}", "template.limit"),
    "loops in loops": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "template.timeout",
    ),
    "a macro that calls itself": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "template.limit"),
    "a power": ("{% set n = messages|length + 8 %}{{ (n ** (n ** n)) > 1 }}", "template.timeout"),
    "a power of constants": ("{{ (9 ** (9 ** 9)) > 1 }}", "template.timeout"),
    "a text that no memory holds": ("{{ 'x' * 10**18 }}", "template.limit"),
    "an indent": ("{{ messages | tojson(indent=10**9) }}", "template.limit"),
    "a width": ("{{ 'x' | center(10**9) }}", "template.limit"),
    "lists that grow": (
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "",
    ),
    "short texts without end": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ 'x' * 200 }}{{ i * j }}{% endfor %}{% endfor %}",
        "",
    ),
    "a rendered text that is too long": ("{{ 'x' * (65 * 1024 * 1024) }}", ""),
    "a wrapped word": ("{{ ('x' * 3000000) | wordwrap(1) }}", "template.timeout"),
    "wrapped words": ("{{ ('x ' * 3000000) | wordwrap(1) }}", "template.timeout"),
}
"""Template -> code of the error; '' if either limit may be exceeded first."""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "TEMPLATE_SECONDS", SECONDS)
    monkeypatch.setattr(parallel, "TEMPLATE_BYTES", MEMORY)


@cache
def loaded() -> Any:
    return load_tokenizer(Model())


@pytest.fixture
def tokenizer() -> Any:
    return loaded()


def peak(who: int) -> int:
    """Peak memory in bytes: of this process, or of its largest child that has ended."""
    return resource.getrusage(who).ru_maxrss * 1024


def error_of(work: Callable[[], object]) -> UserError:
    with pytest.raises(UserError) as refused:
        work()
    return refused.value


def check_with(template: str) -> None:
    """Check data with an endless template, in a process of its own: the peak of children is that of all that ended."""
    loaded().chat_template = template
    own = peak(resource.RUSAGE_SELF)
    spent = time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    error = error_of(lambda: check(Data(id="tickets"), 512, loaded()))
    spent = time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - spent
    assert error.code in ("template.timeout", "template.limit")
    assert error.code == next(code or error.code for known, code in ENDLESS.values() if known == template)
    assert "template" in error.location and "model.chat_template" in error.hint
    assert peak(resource.RUSAGE_SELF) < own + (64 << 20)
    assert peak(resource.RUSAGE_CHILDREN) < own + MEMORY + (64 << 20)
    assert spent < 10 + 4 * SECONDS  # CPU time, of which reading the rows is most


@pytest.mark.parametrize("name", ENDLESS)
def test_a_check_of_data_refuses_it_in_bounded_time_and_memory(name: str, tokenizer: Any) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as process:
        process.submit(check_with, ENDLESS[name][0]).result()


@pytest.mark.parametrize("name", ["a wrapped word", "an indent"])
def test_it_is_refused_on_a_thread_as_well(name: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    template, code = ENDLESS[name]
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(error_of, lambda: check(Data(id="tickets"), 512, tokenizer)).result()
    assert error.code == code


def test_no_template_is_rendered_in_the_process_itself(tokenizer: Any) -> None:
    for work in (lambda: ChatTemplate(tokenizer), lambda: run_template(lambda: 7, "here")):
        with pytest.raises(AssertionError, match="child"):
            work()
    assert in_child(lambda: run_template(lambda: 7, "here")) == 7


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a wrapped word", "an indent", "a power of constants"])
def test_every_use_of_a_template_is_limited(name: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.extensions.gguf.llama_cpp import template_texts  # loads torch

    template, code = ENDLESS[name]
    monkeypatch.setattr(tokenizer, "chat_template", template)
    assert end_of_turn(tokenizer) == tokenizer.eos_token
    assert template_texts(tokenizer) is None
    question = [{"role": "user", "content": "Which city is meant?"}]
    assert error_of(lambda: render_in_child(tokenizer, lambda own: own.text(question, None))).code == code


def test_the_error_names_the_template_that_was_rendered() -> None:
    def work() -> None:
        run_template(lambda: 7, "first")
        run_template(forever, "second")

    error = error_of(lambda: in_child(work))
    assert (error.code, error.location) == ("template.timeout", "second")
    assert in_child(lambda: 7) == 7  # and nothing is left behind


def forever() -> None:
    while True:
        pass


def test_waiting_uses_no_cpu_time() -> None:
    """As on a busy machine."""
    assert in_child(lambda: run_template(lambda: time.sleep(3 * SECONDS), "here")) is None


def test_other_threads_do_not_use_up_the_time_of_a_template() -> None:
    stop = threading.Event()
    busy = threading.Thread(target=lambda: [None for _ in iter(stop.is_set, True)])
    busy.start()
    try:
        assert in_child(lambda: run_template(lambda: time.sleep(3 * SECONDS), "here")) is None
    finally:
        stop.set()
        busy.join()


def test_only_what_a_template_takes_is_limited() -> None:
    """Not the time and memory of reading and tokenizing between two templates."""

    def work() -> int:
        end = time.process_time() + 2 * SECONDS
        with template_memory("here"):
            run_template(lambda: 7, "here")
        while time.process_time() < end:
            pass
        return len(bytearray(2 * MEMORY))

    assert in_child(work) == 2 * MEMORY


def test_a_template_that_raises_is_broken(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", "{{ 1 / messages[0].content|length * 0 / 0 }}")
    error = error_of(lambda: check(Data(id="tickets"), 512, tokenizer))
    assert error.code == "data.template_broken" and "division by zero" in error.problem


def test_a_file_of_a_template_is_limited_like_the_models_own(tmp_path: Path) -> None:
    path = tmp_path / "endless.jinja"
    path.write_text(ENDLESS["loops in loops"][0])
    error = error_of(lambda: check(Data(id="tickets"), 512, load_tokenizer(Model(chat_template=str(path)))))
    assert error.code == "template.timeout"


def test_rows_that_are_slow_on_average_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is within its limit, but a dataset of them would take days."""
    monkeypatch.setattr(parallel, "MEAN_SECONDS", 0.001)

    def slow() -> None:
        end = time.process_time() + 0.01
        while time.process_time() < end:
            pass

    def rows() -> None:
        for _ in range(parallel.COUNTED_ROWS):
            run_template(slow, "template of the model")

    assert error_of(lambda: in_child(rows)).code == "template.slow"


def test_a_killed_child_is_an_error_and_no_wrong_rows(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowTokenizer, "rows", lambda self, examples: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RunFailed) as failed:
        check(Data(id="tickets"), 512, tokenizer)
    assert failed.value.code == "data.process_died"
