"""`model.chat_template`: shipped templates, templates of catalog models, and files; invalid ones are refused.

Templates with `enable_thinking`: prompts end where answers without reasoning begin, in training and when served.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_examples import ASKED, CALLING, SAID, TEXT_ONLY, TOOLS, chat
from data_fixtures import loss_texts, tokenize, tokenize_all, tokenizer, write_jsonl
from message_parts import settings
from transformers import AutoTokenizer

from engine.config import schema
from engine.config.errors import UserError
from engine.config.reasoning import with_thinking
from engine.config.schema import Data, Model
from engine.data.chat_template import SHIPPED, end_of_turn, shipped, template_text
from engine.data.prepare import prepare
from engine.data.rows import Example, Row
from engine.evaluation.metrics import best_score, is_formatted
from engine.methods.model_source import load_tokenizer


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
    assert "<|im_start|>" in caught.value.problem and "tools-plain" in caught.value.hint


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
    assert caught.value.location == (f"{path} line {line}" if line else str(path))
    assert "model.chat_template" in caught.value.hint


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
    assert "5 of 8 train rows" in caught.value.problem and "tools-chatml" in caught.value.hint


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


EMPTY = "<think>\n\n</think>\n\n"
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}"
    "{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '" + EMPTY + "' }}{% endif %}{% endif %}"
)
"""As Qwen3's: an answer without reasoning has an empty block, the generation prompt only if reasoning is disabled."""


def example(**more: str) -> Example:
    answer = {"role": "assistant", "content": "It is 4.", **more}
    return Example([{"role": "user", "content": "2 + 2?"}, answer], None, None, "a.jsonl line 1")


def trained(enabled: bool, **more: str) -> tuple[Any, list[str]]:
    """The row and its texts in the loss."""
    tok = tokenizer(with_thinking(TEMPLATE, enabled))
    row = tokenize(example(**more), tok, 512)
    return row, loss_texts(row, tok)


def test_the_empty_block_belongs_to_the_prompt_unless_thinking_is_enabled() -> None:
    assert trained(False)[1] == ["It is 4.<|im_end|>"]
    assert trained(True)[1] == [f"{EMPTY}It is 4.<|im_end|>"]


def test_answers_with_reasoning_need_the_setting() -> None:
    with pytest.raises(UserError) as caught:
        trained(False, reasoning_content="add them")
    assert caught.value.code == "data.template_prompt_mismatch"
    assert settings(caught.value.hint) == {"model.enable_thinking": True}
    row, texts = trained(True, reasoning_content="add them")
    assert texts == ["<think>\nadd them\n</think>\n\nIt is 4.<|im_end|>"] and row.target == "It is 4."


def test_the_default_is_set_once_and_can_be_removed() -> None:
    changed = with_thinking(TEMPLATE, False)
    assert with_thinking(changed, False) == changed != TEMPLATE and with_thinking(changed, True) == TEMPLATE
    other = "{{ messages[0].content }}"
    assert with_thinking(other, False) == other


def test_the_saved_tokenizer_has_the_default_and_a_request_can_change_it(tmp_path: Path) -> None:
    (tmp_path / "thinking.jinja").write_text(TEMPLATE)
    loaded = load_tokenizer(Model(chat_template=str(tmp_path / "thinking.jinja")))
    loaded.save_pretrained(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for tok in (loaded, saved):
        options = {"tokenize": False, "add_generation_prompt": True}
        asked = [{"role": "user", "content": "2 + 2?"}]
        assert tok.apply_chat_template(asked, **options).endswith(f"assistant\n{EMPTY}")
        assert tok.apply_chat_template(asked, enable_thinking=True, **options).endswith("assistant\n")


@pytest.mark.parametrize(
    ("output", "score"),
    [("yes", 1), (f"{EMPTY}yes", 1), ("<think>no</think> yes", 1), ("<think>yes</think> no", 0), ("<think> yes", 0)],
)
def test_reasoning_is_not_scored(output: str, score: int) -> None:
    assert best_score("exact_match", output, ["yes"])["exact_match"] == score
    assert best_score("exact_match", output, ["<think>other</think>yes"])["exact_match"] == score


def test_the_format_is_that_of_the_answer() -> None:
    assert is_formatted("json", '<think>{"a": 1}</think>{"b": 2}') and not is_formatted("json", '<think>{"a": 1}')
