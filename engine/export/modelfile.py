"""Ollama's Modelfile: the chat template in Go's template language, found by rendering, and the stop tokens.

Ollama does not run Jinja. The text that a chat template puts around each message is found by rendering conversations of
marked messages; the resulting template is used only if it renders a sample conversation to the same text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from engine.config.errors import UserError
from engine.data.chat_template import ChatTemplate, render_in_child
from engine.export.gguf_check import FILE

SAMPLE = [("system", "Be brief."), ("user", "One?"), ("assistant", "1"), ("user", "Two?")]


@dataclass(frozen=True)
class TemplateTexts:
    """The text that a chat template writes before and after a message of each role, and before the answer."""

    around: dict[str, tuple[str, str]]
    generation: str
    default_system: str
    """The system prompt that the template writes if a conversation has none, with the text around it."""

    def go_template(self) -> str:
        """The template in Go's syntax."""
        system = self.around["system"]
        shown = f"{{{{ if .System }}}}{system[0]}{{{{ .System }}}}{system[1]}"
        shown += f"{{{{ else }}}}{self.default_system}{{{{ end }}}}" if self.default_system else "{{ end }}"
        turns = []
        for role in ("user", "assistant"):
            before, after = self.around[role]
            turns.append(f'{{{{ if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}{{{{ end }}}}')
        return f"{shown}{{{{ range .Messages }}}}{''.join(turns)}{{{{ end }}}}{self.generation}"

    def render(self, messages: list[tuple[str, str]]) -> str:
        """What Ollama makes of a conversation."""
        system = "".join(text for role, text in messages if role == "system")
        before, after = self.around["system"]
        shown = f"{before}{system}{after}" if system else self.default_system
        turns = [f"{self.around[role][0]}{text}{self.around[role][1]}" for role, text in messages if role != "system"]
        return f"{shown}{''.join(turns)}{self.generation}"


def template_texts(tokenizer: Any) -> TemplateTexts | None:
    """The texts of the tokenizer's chat template; None if it is not made of such turns."""
    try:
        return render_in_child(tokenizer, _texts_of)
    except UserError:  # invalid Jinja, or a template that exceeds a limit
        return None


def _texts_of(template: ChatTemplate) -> TemplateTexts | None:
    def rendered(messages: list[tuple[str, str]], generation: bool = False) -> str:
        return template.text([{"role": role, "content": text} for role, text in messages], None, ask=generation)

    try:
        with_system = rendered([("system", "⟦s⟧"), ("user", "⟦u⟧"), ("assistant", "⟦a⟧"), ("user", "⟦v⟧")])
        alone = rendered([("user", "⟦u⟧"), ("assistant", "⟦a⟧"), ("user", "⟦v⟧")])
        generation = rendered([("user", "⟦u⟧")], generation=True).removeprefix(rendered([("user", "⟦u⟧")]))
        before_system, rest = with_system.split("⟦s⟧")
        system_to_user, rest = rest.split("⟦u⟧")
        user_to_assistant, rest = rest.split("⟦a⟧")
        assistant_to_user, user_end = rest.split("⟦v⟧")
        assistant_end = rendered([("user", "⟦u⟧"), ("assistant", "⟦a⟧")]).split("⟦a⟧")[1]
        user_start = assistant_to_user.removeprefix(assistant_end)
        default = alone.split("⟦u⟧")[0].removesuffix(user_start)
        found = TemplateTexts(
            around={
                "system": (before_system, system_to_user.removesuffix(user_start)),
                "user": (user_start, user_end),
                "assistant": (user_to_assistant.removeprefix(user_end), assistant_end),
            },
            generation=generation,
            default_system=default,
        )
        samples = (SAMPLE, SAMPLE[1:], SAMPLE[1:2])
        same = all(found.render(sample) == rendered(sample, generation=True) for sample in samples)
    except (TemplateError, ValueError, TypeError):  # a template without a system role, or one that changes the texts
        return None
    texts = "".join([*map("".join, found.around.values()), found.default_system, found.generation])
    return found if same and "{{" not in texts and '"""' not in texts else None


def modelfile(tokenizer: Any, ends: list[int], system: str = "") -> str:
    """The text of the Modelfile. Without TEMPLATE, Ollama uses the template in the GGUF file, if it knows it.

    system: of the training rows; requests without a system prompt get it.
    """
    lines = [f"FROM ./{FILE}"]
    texts = template_texts(tokenizer) if tokenizer.chat_template else None
    if texts is not None:
        lines.append(f'TEMPLATE """{texts.go_template()}"""')
    else:
        lines.append("# The chat template could not be expressed in Ollama's template language: compare its prompts.")
    if system and '"""' not in system:
        lines.append(f'SYSTEM """{system}"""')
    elif system:
        lines.append('# Requests need the system prompt of the training rows; it contains """, which SYSTEM cannot.')
    lines += [f"PARAMETER stop {json.dumps(token)}" for token in tokenizer.convert_ids_to_tokens(ends)]
    return "\n".join([*lines, "PARAMETER temperature 0", ""])
