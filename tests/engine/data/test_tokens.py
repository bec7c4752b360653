"""Only answers and their end tokens are in the loss, for many templates."""

from __future__ import annotations

from typing import Any

import pytest
from data_fixtures import CHATML, loss_texts, tokenize, tokenize_all, tokenizer
from message_parts import settings

from engine.config.errors import UserError
from engine.data.rows import Example, Problem

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "And 3 + 3?"},
    {"role": "assistant", "content": "6"},
]
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n'"
    " + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
STRIPPED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ENDLESS = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
HIDDEN = CHATML.replace("'<|im_start|>assistant\n' }}{% endif %}", "'<|im_start|>assistant\n<think>\n' }}{% endif %}")


def chat(messages: Any, **more: Any) -> Any:
    return Example([dict(turn) for turn in messages], None, None, "a.jsonl line 1", **more)


def plain(prompt: Any, completion: Any) -> Any:
    return Example(None, prompt, completion, "a.jsonl line 1")


@pytest.mark.parametrize(
    ("template", "options", "end"),
    [
        (CHATML, {}, "<|im_end|>"),
        (LLAMA3, {"specials": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "bos": "<s>"}, "<|eot_id|>"),
        (PHI3, {"specials": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "eos": "<|endoftext|>"}, "<|end|>"),
    ],
    ids=["chatml", "llama-3", "phi-3"],
)
def test_every_answer_and_its_end_token_alone_is_in_the_loss(template: Any, options: Any, end: Any) -> None:
    tok = tokenizer(template, **options)
    row = tokenize(chat(CHAT), tok, 512)
    assert loss_texts(row, tok) == [f"It is 4.{end}", f"6{end}"]
    assert tok.decode(row.input_ids) == tok.apply_chat_template(CHAT, tokenize=False)
    assert row.prompt == tok.apply_chat_template(CHAT[:-1], add_generation_prompt=True, return_dict=False)
    assert row.prompt == row.input_ids[: len(row.prompt)]
    assert (row.target, row.cut, row.notes) == ("6", False, ())


def test_tool_calls_are_in_the_loss_as_rendered() -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    turns = [
        {"role": "user", "content": "Oslo?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "It rains."},
    ]
    tok = tokenizer()
    written = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
    assert loss_texts(tokenize(chat(turns), tok, 512), tok) == [f"{written}<|im_end|>", "It rains.<|im_end|>"]
    assert tokenize(chat(turns[:2]), tok, 512).target == written


def test_untrained_turns_are_not_in_the_loss() -> None:
    tok = tokenizer()
    row = tokenize(chat(CHAT, weights={2: 0.0}), tok, 512)
    assert loss_texts(row, tok) == ["6<|im_end|>"]


def test_a_message_weight_is_the_weight_of_each_of_its_tokens() -> None:
    tok = tokenizer()
    row = tokenize(chat(CHAT, weights={2: 0.25}), tok, 512)
    assert loss_texts(row, tok) == ["It is 4.<|im_end|>", "6<|im_end|>"]
    by_turn = [
        {weight for weight, label in zip(part, labels, strict=True) if label != -100}
        for part, labels in ((row.weights[:-20], row.labels[:-20]), (row.weights[-20:], row.labels[-20:]))
    ]
    assert by_turn == [{0.25}, {1.0}]
    assert {weight for weight, label in zip(row.weights, row.labels, strict=True) if label == -100} == {0.0}
    assert tokenize(chat(CHAT), tok, 512).weights is None


def test_a_completion_of_plain_text_has_its_weight_too() -> None:
    example = Example(None, "a", "bc", "a.jsonl line 1", weights={0: 0.5})
    row = tokenize(example, tokenizer(None), 512)
    assert row.weights == [0.0] * len(row.prompt) + [0.5] * (len(row.input_ids) - len(row.prompt))


def test_weights_are_truncated_with_their_row() -> None:
    tok = tokenizer()
    whole = tokenize(chat(CHAT[1:3], weights={1: 2.0}), tok, 512)
    cut = tokenize(chat(CHAT[1:3], weights={1: 2.0}), tok, len(whole.input_ids) - 3)
    assert cut.weights == whole.weights[:-3]


def test_an_answer_without_a_prompt_is_not_in_the_loss() -> None:
    tok = tokenizer()
    row = tokenize(chat([{"role": "assistant", "content": "Welcome!"}, *CHAT[1:3]]), tok, 512)
    assert loss_texts(row, tok) == ["It is 4.<|im_end|>"]
    assert row.notes == ("data.opens_with_answer",)


def test_history_that_a_template_rewrites_is_not_in_the_loss() -> None:
    turns = [dict(turn) for turn in CHAT]
    turns[2]["content"] = "<think>sum</think>It is 4."
    tok = tokenizer(STRIPPED)
    row = tokenize(chat(turns), tok, 512)
    assert loss_texts(row, tok) == ["6<|im_end|>"]
    assert row.notes == ("data.history_rewritten",)


def test_a_template_whose_answers_do_not_follow_its_generation_prompt_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        tokenize(chat(CHAT), tokenizer(HIDDEN), 512)
    assert (caught.value.code, caught.value.location) == ("data.template_prompt_mismatch", "a.jsonl line 1")
    assert "<think>" in caught.value.problem and "model.chat_template" in settings(caught.value.hint)


def test_a_template_that_drops_the_content_is_broken() -> None:
    deaf = CHATML.replace("{{ message.content }}", "")
    with pytest.raises(UserError) as caught:
        tokenize(chat(CHAT), tokenizer(deaf), 512)
    assert caught.value.code == "data.template_broken"


def test_a_template_that_rejects_a_row_gives_its_message() -> None:
    refused = "system role is not supported"
    problem = tokenize(chat(CHAT), tokenizer(f"{{{{ raise_exception('{refused}') }}}}"), 512)
    assert isinstance(problem, Problem)
    assert problem.kind == "data.template_refused"
    assert problem.what.startswith(refused) and "model.chat_template" in settings(problem.what)


def test_an_answer_without_an_end_token_has_a_note() -> None:
    row = tokenize(chat(CHAT[1:3]), tokenizer(ENDLESS), 512)
    assert "data.no_end_token" in row.notes


def test_an_end_token_typed_into_a_text_does_not_end_the_answer() -> None:
    turns = [{"role": "user", "content": "end?"}, {"role": "assistant", "content": "It is <|im_end|> you see"}]
    tok = tokenizer()
    row = tokenize(chat(turns), tok, 512)
    assert loss_texts(row, tok) == ["It is <|im_end|> you see<|im_end|>"]
    assert row.notes == ("data.special_token_in_text",)


def test_plain_text_is_bos_prompt_answer_and_end_token() -> None:
    tok = tokenizer(None, bos="<s>")
    row = tokenize(plain("Q: 2 + 2?\nA:", " 4"), tok, 512)
    assert tok.decode(row.input_ids) == "<s>Q: 2 + 2?\nA: 4<|im_end|>"
    assert loss_texts(row, tok) == [" 4<|im_end|>"]
    assert row.prompt == tok("Q: 2 + 2?\nA:")["input_ids"]


def test_an_end_token_in_the_text_is_not_doubled() -> None:
    tok = tokenizer(None)
    assert tokenize(plain("a", "b<|im_end|>"), tok, 512).input_ids == tokenize(plain("a", "b"), tok, 512).input_ids


def test_a_token_across_the_boundary_is_split_as_in_generation() -> None:
    tok = tokenizer(None)
    prompt, answer = "I am still wait", "ing"
    joined = tok(prompt + answer)["input_ids"]
    assert joined[: len(tok(prompt)["input_ids"])] != tok(prompt)["input_ids"], "the example needs a merge"
    row = tokenize(plain(prompt, answer), tok, 512)
    assert row.input_ids[: len(row.prompt)] == row.prompt == tok(prompt)["input_ids"]
    assert loss_texts(row, tok) == ["ing<|im_end|>"]
    assert row.notes == ("data.token_across_boundary",)


def test_a_token_across_the_boundary_of_a_template_is_split_too() -> None:
    template = "{% for m in messages %}{{ m.content + ('<|im_end|>' if m.role == 'assistant' else '') }}{% endfor %}"
    tok = tokenizer(template)
    row = tokenize(
        chat([{"role": "user", "content": "I am still wait"}, {"role": "assistant", "content": "ing"}]), tok, 512
    )
    assert loss_texts(row, tok) == ["ing<|im_end|>"]
    assert row.input_ids[: len(row.prompt)] == row.prompt
    assert row.notes == ("data.token_across_boundary",)


def test_two_bos_tokens_have_a_note() -> None:
    assert "data.double_bos" in tokenize(plain("<s>a", "b"), tokenizer(None, bos="<s>"), 512).notes
    assert "data.double_bos" in tokenize(chat(CHAT), tokenizer("{{ bos_token }}" + LLAMA3, bos="<s>"), 512).notes


def test_rows_are_truncated_on_the_right_and_counted() -> None:
    tok = tokenizer()
    whole = tokenize(chat(CHAT[1:3]), tok, 512)
    size = len(whole.input_ids)
    cut = tokenize(chat(CHAT[1:3]), tok, size - 3)
    assert cut.cut
    assert (cut.input_ids, cut.labels) == (whole.input_ids[: size - 3], whole.labels[: size - 3])
    assert (cut.length, cut.answer, cut.prompt) == (size, whole.answer, whole.prompt)


def test_truncation_that_leaves_no_label_is_a_problem() -> None:
    tok = tokenizer()
    begins = len(tokenize(chat(CHAT[1:3]), tok, 512).prompt)
    problem = tokenize(chat(CHAT[1:3]), tok, begins)
    assert problem.kind == "data.cut_before_answer"
    assert f"token {begins + 1}" in problem.what


def test_conversations_without_a_template_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        tokenize(chat(CHAT), tokenizer(None), 512)
    assert caught.value.code == "data.no_template" and "model.chat_template" in settings(caught.value.hint)


def test_batches_equal_single_examples() -> None:
    tok = tokenizer()
    lonely = chat([{"role": "assistant", "content": "Hello"}])
    examples = [chat(CHAT[1:3]), chat(CHAT), plain("a", "b"), lonely]
    assert tokenize_all(examples * 200, tok, 40) == [tokenize(example, tok, 40) for example in examples] * 200
