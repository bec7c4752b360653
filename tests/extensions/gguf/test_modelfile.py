"""Ollama's template renders conversations as the chat template does, or is left out."""

from __future__ import annotations

from typing import Any, ClassVar

import jinja2
import pytest

from engine.assets import tiny_folder
from engine.extensions.gguf.llama_cpp import SAMPLE, modelfile, template_texts

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe nice.<|im_end|>\n{% endif %}" + CHATML
LLAMA = (
    "<|begin|>{% for m in messages %}<|h|>{{ m.role }}<|/h|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|h|>assistant<|/h|>\n\n{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% elif m.role == 'assistant' %}"
    "{{ m.content }}</s>{% else %}{{ raise_exception('no system role') }}{% endif %}{% endfor %}"
)
NUMBERED = "{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}\n{% endfor %}"


class Tokenizer:
    """A tokenizer with a chat template."""

    special_tokens_map: ClassVar[dict[str, str]] = {}

    def __init__(self, template: str) -> None:
        self.chat_template = template

    def get_chat_template(self, other: str | None) -> str:
        return self.chat_template

    def apply_chat_template(self, messages: Any, tokenize: bool, add_generation_prompt: bool, **more: Any) -> str:
        def refuse(text: str) -> None:
            raise jinja2.TemplateError(text)

        template = jinja2.Environment().from_string(self.chat_template, globals={"raise_exception": refuse})
        return template.render(messages=messages, add_generation_prompt=add_generation_prompt)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f'<"{number}">' for number in ids]


@pytest.mark.parametrize("template", [CHATML, DEFAULT_SYSTEM, LLAMA], ids=["ChatML", "default system", "Llama 3"])
@pytest.mark.parametrize("start", [0, 1], ids=["system prompt", "no system prompt"])
def test_the_texts_around_turns_are_found(template: str, start: int) -> None:
    tokenizer, conversation = Tokenizer(template), SAMPLE[start:]
    messages = [{"role": role, "content": text} for role, text in conversation]
    texts = template_texts(tokenizer)
    assert texts is not None
    assert texts.render(conversation) == tokenizer.apply_chat_template(messages, False, True)


@pytest.mark.parametrize("template", [ALTERNATING, NUMBERED, "{{ messages }}", "", "{% for"])
def test_a_template_that_cannot_be_expressed_is_left_out_with_a_comment(template: str) -> None:
    text = modelfile(Tokenizer(template), [7])
    assert "TEMPLATE" not in text
    assert [line for line in text.splitlines() if line.startswith("# ") and "chat template" in line]
    assert 'PARAMETER stop "<\\"7\\">"' in text and text.startswith("FROM ./model.gguf\n")


def test_the_system_prompt_of_the_training_rows_is_the_default() -> None:
    lines = modelfile(Tokenizer(CHATML), [7], "Answer in JSON.\nBe brief.").splitlines()
    place = lines.index('SYSTEM """Answer in JSON.')
    assert lines[place + 1] == 'Be brief."""'
    refused = modelfile(Tokenizer(CHATML), [7], 'Say """.')
    assert 'SYSTEM "' not in refused and any(line.startswith("# Requests need") for line in refused.splitlines())


def test_the_go_template_has_the_same_texts() -> None:
    texts = template_texts(Tokenizer(DEFAULT_SYSTEM))
    assert texts is not None
    assert texts.go_template() == (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n"
        "{{ else }}<|im_start|>system\nBe nice.<|im_end|>\n{{ end }}"
        '{{ range .Messages }}{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n{{ end }}'
        '{{ if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n{{ end }}{{ end }}'
        "<|im_start|>assistant\n"
    )


def test_the_embedded_model_has_a_template() -> None:
    from transformers import AutoTokenizer

    assert 'TEMPLATE """' in modelfile(AutoTokenizer.from_pretrained(tiny_folder()), [2])
