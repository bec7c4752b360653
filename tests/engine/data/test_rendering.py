"""Parts of rows that chat templates drop, and the templates that are suggested instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_examples import ASKED, CALL, CALLING, SAID, TEXT_ONLY, TOOLS, chat
from data_fixtures import CHATML, loss_texts, tokenize, tokenizer, write_jsonl
from message_parts import figures, settings

from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data.chat_template import SHIPPED, shipped
from engine.data.check import check
from engine.data.prepare import prepare
from engine.data.problems import NOTES, meaning
from engine.data.rows import Problem, Row

NO_SYSTEM = "{% for message in messages if message.role != 'system' %}" + TEXT_ONLY.partition("%}")[2]
NO_RESULTS = "{% for message in messages if message.role != 'tool' %}" + TEXT_ONLY.partition("%}")[2]


def codes(row: Row | Problem) -> set[str]:
    assert isinstance(row, Row), row
    return {meaning(note)[0] for note in row.notes}


def openai_rows(count: int) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's schema, every other one with its result and an answer."""
    rows = []
    for number in range(count):
        call = {"name": "weather", "arguments": json.dumps({"city": f"City {number}"})}
        called = {"id": f"call_{number}", "type": "function", "function": call}
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": f"Weather in City {number}?"},
            {"role": "assistant", "content": None, "tool_calls": [called]},
        ]
        if number % 2:
            messages.append({"role": "tool", "tool_call_id": f"call_{number}", "content": "12 degrees"})
            messages.append({"role": "assistant", "content": f"12 degrees in City {number}."})
        rows.append({"messages": messages, "tools": TOOLS})
    return rows


def test_a_call_that_is_not_rendered_is_a_lost_answer_and_no_empty_turn_is_trained() -> None:
    tok = tokenizer(TEXT_ONLY)
    for messages in (CALLING[:2], CALLING):
        problem = tokenize(chat(*messages, tools=TOOLS), tok, 512)
        assert isinstance(problem, Problem)
        assert problem.kind == "data.template_drops_calls"


def test_a_call_whose_arguments_are_not_rendered_is_lost() -> None:
    names_only = TEXT_ONLY.replace(
        "message.content", "(message.tool_calls[0].function.name if message.tool_calls else message.content)"
    )
    problem = tokenize(chat(*CALLING, tools=TOOLS), tokenizer(names_only), 512)
    assert isinstance(problem, Problem) and problem.kind == "data.template_drops_calls"


def test_data_with_lost_answers_is_refused_with_a_template_that_renders_them(tmp_path: Path) -> None:
    rows = [{"messages": [ASKED, {**SAID, "content": f"No {n}."}]} for n in range(95)] + openai_rows(5)
    data = Data(id=str(write_jsonl(tmp_path / "a.jsonl", rows)), validation=0.0, test=0.0)
    with pytest.raises(UserError) as caught:
        prepare(data, 512, tokenizer(TEXT_ONLY))
    assert caught.value.code == "data.template_drops_calls"
    assert figures(caught.value.problem)[:2] == ["5", "100"]
    assert settings(caught.value.hint) == {"model.chat_template": "tools-chatml"}
    assert check(data, 512, tokenizer(TEXT_ONLY))["refused"] == caught.value.line


def test_the_suggested_template_trains_every_call(tmp_path: Path) -> None:
    data = Data(id=str(write_jsonl(tmp_path / "a.jsonl", openai_rows(40))), validation=0.0, test=0.0)
    name = "tools-chatml"
    tok = tokenizer(shipped(name, tokenizer(TEXT_ONLY)))
    rows = prepare(data, 512, tok).train
    assert len(rows) == 40
    for number, row in enumerate(rows):
        call = f'<tool_call>{{"name": "weather", "arguments": {{"city": "City {number}"}}}}</tool_call><|im_end|>'
        answers = [f"12 degrees in City {number}.<|im_end|>"] if number % 2 else []
        assert loss_texts(row, tok) == [call, *answers]
        assert row.notes == ()


DROPPED = {
    "tools": (TEXT_ONLY, chat(ASKED, SAID, tools=TOOLS)),
    "tool_results": (NO_RESULTS, chat(ASKED, {**SAID, "content": "Let me see."}, CALLING[2], SAID)),
    "calls": (TEXT_ONLY, chat(*CALLING, tools=TOOLS, weights={1: 0.0})),
    "reasoning": (TEXT_ONLY, chat(ASKED, {**SAID, "reasoning_content": "Clouds."}, ASKED, SAID)),
    "system": (NO_SYSTEM, chat({"role": "system", "content": "Be brief."}, ASKED, SAID)),
    "user": (NO_SYSTEM.replace("'system'", "'user'"), chat({"role": "system", "content": "Be brief."}, ASKED, SAID)),
    "names": (TEXT_ONLY, chat({**ASKED, "name": "bob"}, SAID)),
    "keys": (TEXT_ONLY, chat({**ASKED, "mood": "curious"}, SAID)),
}


@pytest.mark.parametrize("part", DROPPED)
def test_what_a_template_drops_from_the_context_is_noted(part: str) -> None:
    template, example = DROPPED[part]
    expected = {f"data.template_drops_{part}"} | ({"data.template_drops_tools"} if part == "calls" else set())
    assert codes(tokenize(example, tokenizer(template), 512)) == expected


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("part", [part for part in DROPPED if part != "keys"])
def test_shipped_templates_drop_none_of_it(name: str, part: str) -> None:
    tok = tokenizer(shipped(name, tokenizer(TEXT_ONLY)))
    row = tokenize(DROPPED[part][1], tok, 512)
    assert codes(row) == set()


def test_a_template_is_suggested_only_if_it_renders_the_row() -> None:
    row = tokenize(DROPPED["tools"][1], tokenizer(TEXT_ONLY), 512)
    assert isinstance(row, Row)
    (text,) = [meaning(note)[1] for note in row.notes]
    assert text.startswith(NOTES["data.template_drops_tools"])
    assert settings(text) == {"model.chat_template": "tools-chatml"}
    row = tokenize(DROPPED["keys"][1], tokenizer(TEXT_ONLY), 512)
    assert isinstance(row, Row)
    assert [meaning(note)[1] for note in row.notes] == [f"{NOTES['data.template_drops_keys']} (mood)"]


def test_ids_of_calls_and_keys_without_a_value_are_not_missed() -> None:
    called = {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", **CALL}], "refusal": None, "audio": ""}
    row = tokenize(chat(ASKED, called, {**CALLING[2], "tool_call_id": "c1"}, SAID), tokenizer(CHATML), 512)
    assert codes(row) == set()


def test_rows_are_counted_by_what_was_dropped(tmp_path: Path) -> None:
    rows = [{"messages": [ASKED, SAID], "tools": TOOLS}] * 30 + [{"messages": [{**ASKED, "name": "bob"}, SAID]}] * 12
    data = Data(id=str(write_jsonl(tmp_path / "a.jsonl", rows)), validation=0.0, test=0.0)
    told = {notice.code: notice.text for notice in prepare(data, 512, tokenizer(TEXT_ONLY)).warnings()}
    assert told["data.template_drops_tools"].startswith("30 rows: ")
    assert told["data.template_drops_names"].startswith("12 rows: ")


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_an_empty_answer_in_the_middle_is_not_trained(empty: str) -> None:
    tok = tokenizer()
    row = tokenize(chat(ASKED, {**SAID, "content": empty}, ASKED, SAID), tok, 512)
    assert loss_texts(row, tok) == ["It will.<|im_end|>"]
    assert codes(row) == {"data.empty_turn"}


def test_content_that_renders_to_nothing_is_an_empty_answer() -> None:
    stripping = CHATML.replace("{{ message.content }}", "{{ message.content.split('</think>')[-1] }}")
    tok, thought = tokenizer(stripping), {**SAID, "content": "<think>Clouds.</think>"}
    row = tokenize(chat(ASKED, thought, ASKED, SAID), tok, 512)
    assert loss_texts(row, tok) == ["It will.<|im_end|>"]
    assert codes(row) == {"data.empty_turn"}
    last = tokenize(chat(ASKED, SAID, ASKED, thought), tok, 512)
    assert isinstance(last, Problem) and last.kind == "data.template_drops_reasoning"


@pytest.mark.parametrize("field", ["reasoning_content", "content"])
def test_an_answer_whose_reasoning_the_template_drops_is_refused_with_the_remedy(field: str, tmp_path: Path) -> None:
    stripping = CHATML.replace("{{ message.content }}", "{{ message.content.split('</think>')[-1] }}")
    thought = {**SAID, "reasoning_content": "Clouds."} if field == "reasoning_content" else None
    thought = thought or {**SAID, "content": f"<think>Clouds.</think>{SAID['content']}"}
    rows = [{"messages": [ASKED, SAID]}] * 9 + [{"messages": [ASKED, thought]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError) as refused:
        prepare(Data(id=str(tmp_path / "a.jsonl")), 512, tokenizer(stripping))
    assert refused.value.code == "data.template_drops_reasoning" and "tools-chatml" in refused.value.hint


def test_weights_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    prints = set()
    for weight in (1, 0.5):
        path = write_jsonl(tmp_path / "a.jsonl", [{"messages": [ASKED, {**SAID, "weight": weight}]}] * 3)
        prints.add(prepare(Data(id=str(path), validation=0.0, test=0.0), 512, tokenizer()).facts.fingerprint)
    assert len(prints) == 2
