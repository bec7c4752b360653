"""Rows made in batches, with one rendering and one encoding each, are to the token those made exactly one by one."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from data_fixtures import CHATML, tokenize, tokenize_all, tokenizer
from test_tokens import ENDLESS, LLAMA3, PHI3, STRIPPED

from engine.config.errors import UserError
from engine.data.chat_template import FOLDER, ChatTemplate, render_in_child
from engine.data.parallel import in_child
from engine.data.rendering import PatternRenderer, Renderer
from engine.data.rows import Example, Problem, Row

TRIMMED = CHATML.replace("message.content }}", "message.content | trim }}").replace(
    "message.content +", "message.content | trim +"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}" + CHATML
)
TURNING = (  # no token of its own before the answer
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "trimmed": TRIMMED,
    "default system": DEFAULT_SYSTEM,
    "llama 3": LLAMA3,
    "phi 3": PHI3,
    "strips reasoning": STRIPPED,
    "data.no_end_token": ENDLESS,
    "instruction marks": TURNING,
    **{path.stem: path.read_text() for path in sorted(FOLDER.glob("*.jinja"))},
}
ODD = (
    "", " ", "\n", "plain", " spaced ", "assistant\n", "\n\nassistant\n", "<|im_start|>assistant\n", "<|im_end|>",
    "<think>why</think>so", "[INST]", "[/INST]", "</s>", "### Assistant:\n", "assistant: ", "user: ", "card\n\n\n",
    "👩‍👩‍👧‍👦", "naïve Don’t", "a" * 50,
)  # fmt: skip
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}


def text(source: random.Random) -> str:
    return "".join(source.choices(ODD, weights=[1, 1, 1, 30] + [1] * 16, k=source.randint(1, 3)))


def conversation(source: random.Random, number: int) -> Example:
    messages: list[dict[str, Any]] = []
    if source.random() < 0.3:
        messages.append({"role": "system", "content": text(source)})
    for _ in range(source.choice([1, 1, 1, 2, 3])):
        messages.append({"role": "user", "content": text(source)})
        if source.random() < 0.2:
            messages.append({"role": "assistant", "content": "", "tool_calls": [CALL]})
            messages.append({"role": "tool", "content": text(source)})
        messages.append({"role": "assistant", "content": text(source)})
    weights = {len(messages) - 1: 0.5} if source.random() < 0.1 else {}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}] if number % 7 == 0 else None
    return Example(messages, None, None, f"line {number}", tools, weights)


def without_advice(row: Row | Problem) -> Row | Problem:
    """What to do about a dropped part is tried on the first conversation of a shape, so it depends on the batch."""
    if isinstance(row, Problem):
        return replace(row, what=row.what.partition("; ")[0])
    return replace(row, notes=tuple(note.partition("; ")[0] for note in row.notes))


def singly(example: Example, tok: Any) -> Any:
    try:
        return tokenize(example, tok, 300)
    except UserError as error:
        return error.code


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("seed", [0, 1])
def test_batches_give_the_rows_that_single_conversations_give(template: str, seed: int) -> None:
    specials = tuple(sorted(set(re.findall(r"<\|[A-Za-z_]+\|>|\[/?INST\]", template)))) if seed == 0 else ()
    tok = tokenizer(template, specials, bos="<s>", eos="<|im_end|>" if "im_end" in template else "</s>")
    source = random.Random(seed)
    examples = [conversation(source, number) for number in range(200)]
    exact = in_child(lambda: {example.where: singly(example, tok) for example in examples})
    usable = [example for example in examples if not isinstance(exact[example.where], str)]
    assert len(usable) > 150
    for example, row in zip(usable, tokenize_all(usable, tok, 300), strict=True):
        assert without_advice(row) == without_advice(exact[example.where])


def rendered(template: str, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many times a template is rendered for these conversations."""
    count = 0
    for name in ("text", "quick_text"):
        original = getattr(ChatTemplate, name)

        def counted(self: Any, *of: Any, original: Any = original, **more: Any) -> str:
            nonlocal count
            count += 1
            return str(original(self, *of, **more))

        monkeypatch.setattr(ChatTemplate, name, counted)
    tok = tokenizer(template)

    def render(chat_template: ChatTemplate) -> int:
        results = PatternRenderer(Renderer(tok, chat_template)).render(examples)
        assert not any(isinstance(result, Problem) for result in results)
        return count

    return render_in_child(tok, render)


@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize("template", [CHATML, LLAMA3, DEFAULT_SYSTEM], ids=["chatml", "llama 3", "default system"])
def test_a_conversation_of_a_common_shape_is_rendered_once(
    template: str, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = [{"role": "user", "content": "Which card?"}, {"role": "assistant", "content": "Mine."}]
    tok = tokenizer(template, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), bos="<s>")
    monkeypatch.setattr("test_patterns.tokenizer", lambda template: tok)
    examples = [Example([dict(turn) for turn in pair * turns], None, None, f"line {n}") for n in range(1000)]
    assert rendered(template, examples, monkeypatch) < 1000 + 60


def test_tool_conversations_of_one_shape_are_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [
        {"role": "user", "content": "Oslo?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "It rains."},
    ]
    examples = [Example(messages, None, None, f"line {n}", [{"name": "weather"}]) for n in range(500)]
    template = (FOLDER / "tools-chatml.jinja").read_text()
    assert rendered(template, examples, monkeypatch) < 500 + 60


def test_files_of_templates_are_readable_by_their_names() -> None:
    assert {Path(name).stem for name in ("tools-chatml", "tools-plain")} <= set(TEMPLATES)
