"""Templates with `enable_thinking`: prompts end where answers without reasoning begin, in training and when served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_fixtures import loss_texts, tokenizer
from transformers import AutoTokenizer

from engine.config.errors import UserError
from engine.config.schema import Model
from engine.data.chat_template import with_thinking
from engine.data.rows import Example
from engine.data.tokens import tokenize
from engine.evaluation.metrics import best_score, is_formatted
from engine.methods.tokenizer import load_tokenizer

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
    assert caught.value.code == "data.template_prompt_mismatch" and "model.enable_thinking = true" in caught.value.do
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
