"""A chat template that exceeds its limit of time or memory is refused with what to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.config.errors import UserError
from engine.config.schema import Data, Model
from engine.data import template_limit
from engine.data.check import check
from engine.data.template_limit import run_template
from engine.methods.tokenizer import load_tokenizer

SECONDS = 0.3
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
}
Run = Callable[[Callable[[], object]], object]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limit, "SECONDS", SECONDS)
    monkeypatch.setattr(template_limit, "POLL_SECONDS", 0.02)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(Model())


@pytest.mark.parametrize("name", ENDLESS)
def test_a_check_of_data_refuses_it(name: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    template, code = ENDLESS[name]
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(UserError) as refused:
        check(Data(id="tickets"), 512, tokenizer)
    assert refused.value.code == code
    assert "template" in refused.value.where and "model.chat_template" in refused.value.do


def on_a_thread(work: Callable[[], object]) -> object:
    """Run the work on a thread other than the main thread; return or raise its result."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(work())
        except UserError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(120)
    (outcome,) = found
    if isinstance(outcome, UserError):
        raise outcome
    return outcome


@pytest.mark.parametrize("run", [lambda work: work(), on_a_thread], ids=["main", "thread"])
def test_a_loop_is_interrupted_on_every_thread(run: Run) -> None:
    def forever() -> None:
        while True:
            pass

    with pytest.raises(UserError) as refused:
        run(lambda: run_template(forever, "here"))
    assert (refused.value.code, refused.value.where) == ("template.timeout", "here")
    assert run(lambda: run_template(lambda: 7, "here")) == 7  # and nothing is left behind


@pytest.mark.parametrize("run", [lambda work: work(), on_a_thread], ids=["main", "thread"])
def test_waiting_uses_no_cpu_time(run: Run) -> None:
    """As on a busy machine."""
    assert run(lambda: run_template(lambda: time.sleep(3 * SECONDS), "here")) is None


def test_other_threads_do_not_use_up_the_time_of_a_template() -> None:
    stop = threading.Event()
    busy = threading.Thread(target=lambda: [None for _ in iter(stop.is_set, True)])
    busy.start()
    try:
        assert run_template(lambda: time.sleep(3 * SECONDS), "here") is None
    finally:
        stop.set()
        busy.join()


@pytest.mark.parametrize("run", [lambda work: work(), on_a_thread], ids=["main", "thread"])
def test_work_that_ends_at_its_limit_is_over_or_refused_and_nothing_comes_later(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_limit, "SECONDS", 0.01)
    monkeypatch.setattr(template_limit, "POLL_SECONDS", 0.001)

    def count(seconds: float) -> Iterator[int]:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            for _ in range(2_000):  # the limit is of user time, and asking for the time is the system's
                pass
            yield 1

    outcomes: list[str] = []
    while outcomes.count("template.timeout") < 15:  # longer each time: the kernel's timer is as coarse as its ticks
        seconds = 0.001 * len(outcomes)
        assert seconds < 5.0
        try:
            run(lambda seconds=seconds: run_template(lambda: sum(count(seconds)), "here"))
            outcomes.append("over")
        except UserError as error:
            outcomes.append(error.code)
        assert sum(count(0.001)) > 0  # an exception that came late would be raised here
    assert set(outcomes) == {"over", "template.timeout"}


def test_a_template_that_raises_is_broken(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", "{{ 1 / messages[0].content|length * 0 / 0 }}")
    with pytest.raises(UserError) as refused:
        check(Data(id="tickets"), 512, tokenizer)
    assert refused.value.code == "data.template_broken" and "division by zero" in refused.value.what


def test_a_file_of_a_template_is_limited_like_the_models_own(tmp_path: Path) -> None:
    path = tmp_path / "endless.jinja"
    path.write_text(ENDLESS["loops in loops"][0])
    with pytest.raises(UserError) as refused:
        check(Data(id="tickets"), 512, load_tokenizer(Model(chat_template=str(path))))
    assert refused.value.code == "template.timeout"


def test_rows_that_are_slow_on_average_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is within its limit, but a dataset of them would take days."""
    monkeypatch.setattr(template_limit, "MEAN_SECONDS", 0.001)
    monkeypatch.setattr(template_limit, "_spent", template_limit._Spent())

    def slow() -> None:
        end = time.thread_time() + 0.002
        while time.thread_time() < end:
            pass

    with pytest.raises(UserError) as refused:
        for _ in range(template_limit.COUNTED_ROWS):
            run_template(slow, "template of the model")
    assert refused.value.code == "template.slow" and "per row" in refused.value.what
    for _ in range(2 * template_limit.COUNTED_ROWS):  # a later template starts from zero
        run_template(lambda: None, "another template")
