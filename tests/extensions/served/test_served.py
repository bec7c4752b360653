"""Served models as rungs: names and prices, answers and what is wrong with them, and their place in the ladder."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
import tomli
from command import MICRO, ON_SMALL
from forked import ftbench
from made_ladder import made_ladder
from planted_judge import completion, plant_answers, planted

from engine.config.errors import RunFailed, UserError
from engine.config.preset import Preset, resolve
from engine.config.schema import Data, Model
from engine.data.prepare import prepare
from engine.evaluation.preflight import AnswerProfile, MetricChoice, decide_metric
from engine.evaluation.score import write_items
from engine.extensions.judge.pairs import ladder_answers
from engine.extensions.served import serving
from engine.extensions.served.rungs import PRICE, served_models
from engine.ladder import added_rungs
from engine.ladder.added_rungs import check_added, collect_added, let_answer, record_failure
from engine.ladder.aggregate import add_statistics
from engine.ladder.results import LadderResults, collect, read_finished
from engine.ladder.sentences import conclude
from engine.methods.model_source import load_tokenizer
from engine.runs import endpoint
from engine.runs.ladder.ladder_dir import LadderDir, plan_text
from engine.runs.ladder.ladder_plan import make_plan
from engine.runs.ladder.ladder_state import AddedRung
from engine.runs.ladder.rung_results import RungResult
from engine.runs.run.predictions import ScoredItem
from engine.runs.stopping import StopRequest

CONFIG = resolve(Preset("demo-lora", {}), "lora").config


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint.random, "uniform", lambda low, high: 0.0)


@pytest.fixture
def ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LadderDir:
    """A finished ladder whose items need no data set."""
    folder, _ = made_ladder(tmp_path / "runs", seeds=(0, 1))
    plant_answers(folder, {"base": 0.0, "qlora": 0.6, "lora": 0.7, "full": 1.2}, items=30)

    def ask(question: str, arguments: Any, progress: Any) -> Any:
        if question == "ladder.items":
            return [
                {"messages": [{"role": "user", "content": line["prompt"]}], "tools": None}
                for line in arguments["lines"]
            ]
        pairs = zip(arguments["outputs"], arguments["references"], strict=True)
        return [
            {"output": output, "scores": {"exact_match": float(output in refs)}, "formatted": None}
            for output, refs in pairs
        ]

    monkeypatch.setattr(added_rungs, "ask", ask)
    return folder


def served(endpoint: str, **settings: Any) -> AddedRung:
    return AddedRung(kind="served", name="big", source=endpoint, settings=settings)


def asked(folder: LadderDir, model: AddedRung) -> Any:
    state = folder.state()
    assert state is not None
    predictions = next(folder.runs / entry.run for entry in state.entries if entry.kind == "run") / "predictions.jsonl"
    return let_answer(folder, model, CONFIG, predictions, "exact_match", StopRequest())


def right(request: dict[str, Any]) -> str:
    number = request["messages"][-1]["content"].split("Question ")[1].split("?")[0]
    return f"The answer to {number}."


def test_names_and_prices() -> None:
    words = ["http://host:8000/v1#org/Big-Model.1", "small=https://host/v1#s,x"]
    big, small = served_models(words, ["0.5,1", "small=0.1,0.2"])
    assert (big.name, big.row, big.settings[PRICE]) == ("Big-Model-1", "@Big-Model-1", [0.5, 1.0])
    assert (small.name, small.source, small.settings[PRICE]) == ("small", "https://host/v1#s,x", [0.1, 0.2])
    for words, prices, code in (
        (["http://h/v1#a", "http://g/v1#a"], [], "ladder.rung_name"),
        (["x y=http://h/v1#a"], [], "ladder.rung_name"),
        (["http://u:p@h/v1#a"], [], "endpoint.credentials"),
        (["http://h/v1#a"], ["b=1,2"], "ladder.served_price"),
        ([], ["1,2"], "ladder.served_price"),
        (["http://h/v1#a"], ["one"], "endpoint.price"),
    ):
        with pytest.raises(UserError) as raised:
            make_plan("demo", words or ["lora"], {}, prices=prices)
        assert raised.value.code == code


def test_labels_are_generated_on_every_rung_of_a_ladder_with_a_served_model() -> None:
    words = ["lora", "qlora", "http://h/v1#a"]
    plan = make_plan("demo", words, {"evaluation.metric": "choice"})
    assert {rung.config.evaluation.metric for rung in plan.rungs} == {"exact_match"}
    assert "ladder.generated_labels" in [notice.code for notice in plan.notices]
    assert [rung.row for rung in plan.added] == ["@a"]
    without = make_plan("demo", ["lora"], {"evaluation.metric": "choice"})
    assert without.rungs[0].config.evaluation.metric == "choice" and without.added == []
    automatic = make_plan("demo", words, {"evaluation.metric": "auto"}).rungs[0].config.evaluation
    labels = SimpleNamespace(choose=lambda: MetricChoice("choice", "3 distinct labels"))
    with patch.object(AnswerProfile, "of", lambda rows, tags: labels):
        choice, _ = decide_metric(automatic, [])
    assert choice.metric == "exact_match" and "3 distinct labels" in choice.reason
    assert tomli.loads(plan_text(plan))["added"][0]["source"] == "http://h/v1#a"


def test_a_served_model_is_scored_on_the_same_items_and_compared_with_every_trained_rung(ladder: LadderDir) -> None:
    with planted(right) as server:
        model = served(server.name, price=[1.0, 2.0])
        state = asked(ladder, model)
        requests = len(server.requests)
        assert (state.status, requests) == ("finished", 30)
        assert asked(ladder, model) == state and len(server.requests) == requests  # nothing is asked twice
    use = state.use
    assert (use.answers, use.cut, use.empty, use.refused) == (30, 0, 0, {})
    assert use.cost == pytest.approx(30 * (100 * 1.0 + 20 * 2.0) / 1e6)
    assert use.seconds is not None and 0 < use.seconds.low <= use.seconds.mean <= use.seconds.high

    stored = ladder.state()
    assert stored is not None and stored.work is not None
    results = LadderResults(read_finished(ladder, stored))
    collect(results, stored)
    rows = collect_added(ladder, results, [model], "exact_match")
    trained = [
        RungResult(name=row.name, method=row.method, status="finished", seeds=row.seeds, runs=row.runs)
        for row in stored.rows
    ]
    stored.rows = [*rows, *trained]
    add_statistics(stored, results, "exact_match")
    (row,) = [row for row in stored.rows if row.name == "@big"]
    assert row.score is not None and row.score.mean == 1.0
    assert row.training_seconds is None and row.peak is None and row.loss is None  # unknown, not 0
    assert {(comparison.a, comparison.b) for comparison in stored.comparisons} >= {
        (name, "@big") for name in ("qlora", "lora", "full")
    }
    conclude(stored)
    assert [said.topic for said in stored.verdict if "big scores 100.0%" in said.text] == ["quality"]
    assert stored.recommended != "@big"
    ladder.write_state(stored)
    assert ladder_answers(ladder).of_item("@big", 3)[0].output == "The answer to 3."  # for judges and people
    assert ("full", "@big") in ladder_answers(ladder).pairs()


def test_cut_and_empty_answers_and_separate_reasoning_are_counted(ladder: LadderDir) -> None:
    def reply(request: dict[str, Any]) -> str | dict[str, Any]:
        number = int(request["messages"][-1]["content"].split("Question ")[1].split("?")[0])
        bodies = {0: completion("The answer", finish_reason="length"), 1: completion(""), 2: completion(None)}
        bodies[3] = completion("The answer to 3.", reasoning_content="thinking")
        return {"status": 200, "body": bodies[number]} if number in bodies else right(request)

    with planted(reply) as server:
        use = asked(ladder, served(server.name)).use
    assert (use.cut, use.empty, use.reasoning, use.cost) == (1, 2, 1, None)


@pytest.mark.parametrize("message", ["System role not supported", "maximum context length is 99", "no"])
def test_a_refused_item_leaves_the_model_out_instead_of_scoring_0(ladder: LadderDir, message: str) -> None:
    refusal = {"status": 400, "body": {"error": {"message": message}}}
    with planted(
        lambda request: refusal if "Question 7?" in request["messages"][-1]["content"] else right(request)
    ) as server:
        model = served(server.name)
        state = asked(ladder, model)
        assert state.status == "failed" and sum(state.use.refused.values()) == 1 and state.use.answers == 29
        assert "1 of 30 items" in state.reason
        (row,) = collect_added(ladder, LadderResults(), [model], "exact_match")
        assert row.status == "failed" and row.score is None
        server.reply = right
        server.requests.clear()
        assert asked(ladder, model).status == "finished" and len(server.requests) == 1


def test_a_server_that_ends_is_reported_and_its_answers_are_kept(
    ladder: LadderDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    with planted(
        lambda request: {"status": 401, "body": "no"} if len(server.requests) > 10 else right(request)
    ) as server:
        monkeypatch.setattr(serving, "CONCURRENCY", 1)
        model = served(server.name)
        with pytest.raises(UserError) as raised:
            asked(ladder, model)
        assert raised.value.code == "endpoint.unauthorized"
        assert record_failure(ladder, model, raised.value).status == "failed"
        server.reply = right
        server.requests.clear()
        assert asked(ladder, model).status == "finished"
        assert len(server.requests) == 20


def test_a_wrong_name_and_a_metric_without_generated_answers_are_refused_before_training() -> None:
    with planted(right) as server:
        wrong = served(f"{server.url}#other")
        with pytest.raises(UserError) as raised:
            check_added([wrong], "json", StopRequest())
        assert raised.value.code == "endpoint.unknown_model"
        with pytest.raises(UserError) as raised:
            check_added([wrong], "choice", StopRequest())
        assert raised.value.code == "ladder.generated_metric"
        check_added([], "choice", StopRequest())
    with pytest.raises(RunFailed):
        check_added([served(server.name)], "json", StopRequest())


def test_every_answer_of_a_conversation_with_tool_calls_is_asked_and_scored(tmp_path: Path) -> None:
    """In the API calls have ids, and arguments as text; an answer of calls alone is not empty."""
    call = {"function": {"name": "weather", "arguments": {"city": "Oslo"}}}

    def chat(number: int) -> list[dict[str, Any]]:
        return [
            {"role": "user", "content": f"the weather {number}?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": '{"degrees": 3}'},
            {"role": "assistant", "content": f"3 degrees, {number}."},
        ]

    file = tmp_path / "calls.jsonl"
    file.write_text(
        "".join(json.dumps({"messages": chat(n), "tools": [{"name": "weather"}]}) + "\n" for n in range(30))
    )
    data = Data(id=str(file), test=0.2)
    prepared = prepare(data, 512, load_tokenizer(Model(chat_template="tools-plain")))
    items = prepared.test_items
    assert len(items) == 2 * len(prepared.test)
    predictions = tmp_path / "predictions.jsonl"
    write_items(predictions, items, ["asked"] * len(items), None, [ScoredItem.of((1.0, 2, 2), "x", {})] * len(items))

    def reply(request: dict[str, Any]) -> dict[str, Any]:
        assert request["tools"] == [{"type": "function", "function": {"name": "weather"}}]
        *_, last = request["messages"]
        if last["role"] == "user":
            function = {"name": "weather", "arguments": '{"city": "oslo"}'}
            body = completion(None, tool_calls=[{"id": "a", "type": "function", "function": function}])
            return {"status": 200, "body": body}
        (earlier,) = [message for message in request["messages"] if message.get("tool_calls")]
        (made,) = earlier["tool_calls"]
        assert made["type"] == "function" and json.loads(made["function"]["arguments"]) == {"city": "Oslo"}
        assert last["tool_call_id"] == made["id"]
        return {"status": 200, "body": completion("3 degrees.")}

    folder, _ = made_ladder(tmp_path / "runs", seeds=(0,))
    config = msgspec.structs.replace(CONFIG, data=data)
    with planted(reply) as server:
        model = served(server.name)
        state = let_answer(folder, model, config, predictions, "tool_calls", StopRequest())
    assert (state.status, state.use.answers, state.use.empty) == ("finished", len(items), 0)
    lines = [json.loads(line) for line in (folder.added_rung("@big") / "predictions.jsonl").read_text().splitlines()]
    assert [line["base"]["scores"]["tool_calls"] for line in lines] == [1.0] * len(items)
    assert all("weather" in line["base"]["output"] for line in lines if "answer 1" in line["where"])


@pytest.mark.slow
def test_from_the_command_to_the_report(tmp_path: Path) -> None:
    """On the embedded data: the prompt is that of the rows, and the report has the served model."""
    seen: list[list[str]] = []

    def reply(request: dict[str, Any]) -> str:
        seen.append([message["role"] for message in request["messages"]])
        return '{"category": "late"}'

    with planted(reply) as server:
        words = ["--rung", "lora", "--rung", f"big={server.name}", "--price", "1,2", "--no-probe", "--base-shots", "2"]
        done = ftbench("ladder", "demo", *MICRO, *ON_SMALL, *words, "--json")
        assert done.returncode == 0, done.stderr
        state = json.loads(done.stdout)
        (row,) = [row for row in state["rows"] if row["name"] == "@big"]
        assert row["status"] == "finished" and row["score"]["rows"] == state["work"]["test"] == len(seen) / 2
        (shots,) = [row for row in state["rows"] if row["name"] == "@big-2-shot"]
        assert shots["status"] == "finished"
        assert sum(len(roles) == len(seen[0]) for roles in seen) == len(seen) / 2
        longer = seen[-1] if len(seen[-1]) > len(seen[0]) else seen[0]
        assert longer[-5:] == ["user", "assistant", "user", "assistant", "user"]
        assert row["served"]["cost"] > 0 and row["training_seconds"] is None
        assert all(roles[-1] == "user" for roles in seen)
        (folder,) = LadderDir.iterate(tmp_path / "runs")
        for report in (folder.markdown.read_text(), folder.page.read_text()):
            assert "Served models" in report and "unknown" in report and server.url in report
        words = ["--rung", "lora", "--rung", f"big={server.url}#other", "--no-probe"]
        again = ftbench("ladder", "demo", *MICRO, *ON_SMALL, *words, "--json")
        error = json.loads(again.stderr.splitlines()[-1])["error"]
        assert (again.returncode, error["code"]) == (2, "endpoint.unknown_model")
        assert f"{server.url}#other; " in error["problem"] and "planted" in error["problem"]
