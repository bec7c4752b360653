"""Prompts of other origin than a dataset, as token ids by the data path of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.config.errors import UserError
from engine.data.chat_template import has_template
from engine.data.parallel import in_child
from engine.data.rows import Example, Problem, Row
from engine.data.tokens import RowTokenizer


class Prompt(Protocol):
    """What is answered: messages, or plain text for models without a chat template."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """OpenAI's schema; the last message is the user's."""

    @property
    def tools(self) -> list[Any] | None: ...

    @property
    def prompt(self) -> str | None:
        """The prompt as plain text, for tokenizers without a chat template."""


@dataclass(frozen=True)
class PlainPrompt:
    """A prompt in one of the two forms, or in both."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    prompt: str | None = None
    tools: list[Any] | None = None


PROBE = PlainPrompt([{"role": "user", "content": "Hello"}], "Hello")
"""A prompt that every model can answer, to see whether its weights are active and which tokens end its answers."""
ANSWER = "answer"
"""In place of the answer that the model will give: the data path encodes whole conversations."""
ANY_LENGTH = 1 << 30


class PromptEncoder:
    """Prompts as token ids, by the data path of training."""

    def __init__(self, tokenizer: Any) -> None:
        self.chat = has_template(tokenizer)
        self._row_tokenizer = RowTokenizer(tokenizer, ANY_LENGTH)

    def row(self, conversation: Prompt) -> Row:
        """The conversation as a row whose `prompt` ends with the generation prompt. Raises UserError if the chat
        template refuses it.
        """
        (row,) = self.prompts([conversation])
        if isinstance(row, Problem):
            raise UserError(row.what, row.where, "change the conversation", "chat.template_refused")
        return row

    def prompts(self, conversations: Sequence[Prompt]) -> list[Row | Problem]:
        """Several conversations as rows."""
        answer = {"role": "assistant", "content": ANSWER}
        examples = [
            Example(
                [*item.messages, answer] if item.messages else None, item.prompt, ANSWER, "conversation", item.tools
            )
            for item in conversations
        ]
        return self.rows(examples)

    def ids(self, conversation: Prompt) -> list[int]:
        """The prompt's token ids. Raises UserError for an empty prompt and where the chat template refuses it."""
        prompt = self.row(conversation).prompt
        if not prompt:
            raise UserError("empty prompt", "conversation", "enter a text", "chat.empty_prompt")
        return prompt

    def rows(self, examples: list[Example]) -> list[Row | Problem]:
        """Training or test rows, encoded with the same encoder."""
        return in_child(lambda: list(self._row_tokenizer.rows(examples)))
