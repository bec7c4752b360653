"""Parts that chat templates drop, suggested templates, and broken templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data_fixtures import CHATML, loss_texts, tokenizer, write_jsonl

from engine.config import schema
from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data.check import check
from engine.data.conversation import Example, Problem
from engine.data.prepare import prepare
from engine.data.row_notes import NOTES, meaning
from engine.data.shipped_templates import SHIPPED, end_of_turn, shipped, template_text
from engine.data.tokens import Row, tokenize, tokenize_all
from engine.methods.tokenizer import load_tokenizer

TEXT_ONLY = (  # as of many small models: roles and contents, nothing else
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM = "{% for message in messages if message.role != 'system' %}" + TEXT_ONLY.partition("%}")[2]
NO_RESULTS = "{% for message in messages if message.role != 'tool' %}" + TEXT_ONLY.partition("%}")[2]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo", "days": 3}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
ASKED = {"role": "user", "content": "Will it rain?"}
SAID = {"role": "assistant", "content": "It will."}
CALLING = [ASKED, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "rain"}, SAID]


def chat(*messages: dict[str, Any], tools: list[Any] | None = None, **more: Any) -> Example:
    return Example([dict(message) for message in messages], None, None, "a.jsonl line 1", tools, **more)


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
    assert "5 of 100 train rows lose their answer" in caught.value.what
    assert caught.value.do == 'set model.chat_template = "tools-chatml"'
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
    "reasoning": (TEXT_ONLY, chat(ASKED, {**SAID, "reasoning_content": "Clouds."})),
    "system": (NO_SYSTEM, chat({"role": "system", "content": "Be brief."}, ASKED, SAID)),
    "user": (NO_SYSTEM.replace("'system'", "'user'"), chat({"role": "system", "content": "Be brief."}, ASKED, SAID)),
    "names": (TEXT_ONLY, chat({**ASKED, "name": "bob"}, SAID)),
    "keys": (TEXT_ONLY, chat({**ASKED, "mood": "curious"}, SAID)),
}


@pytest.mark.parametrize("thing", DROPPED)
def test_what_a_template_drops_from_the_context_is_noted(thing: str) -> None:
    template, example = DROPPED[thing]
    expected = {f"data.template_drops_{thing}"} | ({"data.template_drops_tools"} if thing == "calls" else set())
    assert codes(tokenize(example, tokenizer(template), 512)) == expected


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("thing", [thing for thing in DROPPED if thing != "keys"])
def test_shipped_templates_drop_none_of_it(name: str, thing: str) -> None:
    tok = tokenizer(shipped(name, tokenizer(TEXT_ONLY)))
    row = tokenize(DROPPED[thing][1], tok, 512)
    assert codes(row) == set()


def test_a_template_is_suggested_only_if_it_renders_the_row() -> None:
    row = tokenize(DROPPED["tools"][1], tokenizer(TEXT_ONLY), 512)
    assert isinstance(row, Row)
    assert [meaning(note)[1] for note in row.notes] == [
        f'{NOTES["data.template_drops_tools"]}; set model.chat_template = "tools-chatml"'
    ]
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
    told = {notice.code: notice.text for notice in prepare(data, 512, tokenizer(TEXT_ONLY)).warnings}
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
    assert isinstance(last, Problem) and last.kind == "data.empty_answer"


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("messages", [CALLING, [ASKED, {**SAID, "reasoning_content": "Clouds."}, ASKED, SAID]])
def test_answers_follow_the_generation_prompt_in_shipped_templates(name: str, messages: list[dict[str, Any]]) -> None:
    tok = tokenizer(shipped(name, tokenizer(TEXT_ONLY)))
    whole = tok.apply_chat_template(messages, tools=TOOLS, tokenize=False)
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = tok.apply_chat_template(messages[:number], tools=TOOLS, tokenize=False, add_generation_prompt=True)
            assert whole.startswith(prompt)
    assert len(loss_texts(tokenize(chat(*messages, tools=TOOLS), tok, 512), tok)) == 2


def test_a_shipped_template_ends_turns_with_the_tokenizers_own_token() -> None:
    base = tokenizer(None, eos="<|endoftext|>")
    assert end_of_turn(base) == "<|endoftext|>"
    tuned = tokenizer(TEXT_ONLY, eos="<|endoftext|>")
    assert end_of_turn(tuned) == "<|im_end|>"
    tok = tokenizer(shipped("tools-chatml", base), eos="<|endoftext|>")
    assert loss_texts(tokenize(chat(ASKED, SAID), tok, 512), tok) == ["It will.<|endoftext|>"]


def foreign() -> Any:
    """A tokenizer without ChatML tokens that starts every text with a bos token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(
        models.BPE(vocab={sign: n for n, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<s>", "</s>")])
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", raw.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def test_chatml_is_refused_by_name_where_the_tokenizer_lacks_its_token() -> None:
    with pytest.raises(UserError) as caught:
        template_text("tools-chatml", foreign())
    assert caught.value.code == "model.template_tokens"
    assert "<|im_start|>" in caught.value.what and "tools-plain" in caught.value.do


def test_the_plain_template_works_with_every_tokenizer() -> None:
    tok = foreign()
    tok.chat_template, _ = template_text("tools-plain", tok)
    row = tokenize(chat(*CALLING, tools=TOOLS), tok, 2048)
    assert loss_texts(row, tok)[1] == "It will.</s>"
    assert isinstance(row, Row)
    assert tok.decode(row.input_ids).startswith("<s>### System:\n") and row.notes == ()


BROKEN = {
    "syntax": ("{% for m in messages %}\n{{ m.content }", 2),
    "unknown filter": ("\n\n{{ messages | shuffled }}", 3),
    "undefined": ("{% for m in messages %}\n{{ m.content + suffix.text }}{% endfor %}", 2),
    "types": ("{% for m in messages %}{{ m.content + 1 }}{% endfor %}", 1),
    "silent": ("{{ '<|im_start|>' }}{% for m in mesages %}{{ m.content }}{% endfor %}", 0),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_template_is_one_error_with_its_file_and_line(kind: str, tmp_path: Path) -> None:
    text, line = BROKEN[kind]
    path = tmp_path / "own.jinja"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        tokenize_all([chat(ASKED, SAID)] * 9, load_tokenizer(schema.Model(chat_template=str(path))), 512)
    assert caught.value.code == "data.template_broken"
    assert caught.value.where == (f"{path} line {line}" if line else str(path))
    assert "model.chat_template" in caught.value.do


def test_a_template_for_lists_of_parts_is_not_called_broken() -> None:
    parts = TEXT_ONLY.replace("message.content", "message.content[0].text")
    with pytest.raises(UserError) as caught:
        tokenize(chat(ASKED, SAID), tokenizer(parts), 512)
    assert caught.value.code == "data.template_takes_parts"


FUSSY = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEXT_ONLY
CARELESS = "{% if messages[0].role == 'system' %}{{ messages[0].content + 1 }}{% endif %}" + TEXT_ONLY


@pytest.mark.parametrize(("template", "code"), [(FUSSY, "data.template_refused"), (CARELESS, "data.template_failed")])
def test_rows_that_a_template_rejects_are_left_out(template: str, code: str, tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    rows = [{"messages": [*([system] if n < 5 else []), {**ASKED, "content": f"Rain {n}?"}, SAID]} for n in range(50)]
    data = Data(id=str(write_jsonl(tmp_path / "a.jsonl", rows)), validation=0.0, test=0.0)
    assert len(prepare(data, 512, tokenizer(template)).train) == 45
    mostly = Data(id=str(write_jsonl(tmp_path / "b.jsonl", rows[:8])), validation=0.0, test=0.0)
    with pytest.raises(UserError) as caught:
        prepare(mostly, 512, tokenizer(template))
    assert caught.value.code == code
    assert "5 of 8 train rows" in caught.value.what and "tools-chatml" in caught.value.do


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("tools-chatmk", "model.unknown_template"),
        ("empty.jinja", "model.template_unreadable"),
        ("qwen2.5-7b", "model.unknown_template"),
    ],
)
def test_a_template_that_is_not_there_is_refused(
    name: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Path("empty.jinja").write_text(" \n")
    with pytest.raises(UserError) as caught:
        load_tokenizer(schema.Model(chat_template=name))
    assert caught.value.code == code


def test_a_named_template_is_part_of_the_loaded_tokenizer() -> None:
    tok = load_tokenizer(schema.Model(chat_template="tools-chatml"))
    assert isinstance(tokenize(chat(*CALLING, tools=TOOLS), tok, 512), Row)
    assert "<tool_call>" in tok.chat_template


def test_the_template_of_a_pulled_catalog_model_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "ftbench" / "models" / "qwen2.5-7b"
    folder.mkdir(parents=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEXT_ONLY}))
    assert load_tokenizer(schema.Model(chat_template="qwen2.5-7b")).chat_template == TEXT_ONLY


def test_weights_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    prints = set()
    for weight in (1, 0.5):
        path = write_jsonl(tmp_path / "a.jsonl", [{"messages": [ASKED, {**SAID, "weight": weight}]}] * 3)
        prints.add(prepare(Data(id=str(path), validation=0.0, test=0.0), 512, tokenizer()).fingerprint)
    assert len(prints) == 2
