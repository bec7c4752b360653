"""Encode conversations as training does: the same template, tokenizer and boundary between prompt and answer."""

from __future__ import annotations

from typing import Any

from engine.config.errors import UserError
from engine.data.chat_template import has_template
from engine.data.parallel import in_child
from engine.data.rows import Example, Problem, Row
from engine.data.tokens import RowTokenizer
from engine.runs.chat_client import Conversation

ANSWER = "answer"
"""In place of the answer that the model will give: the data path encodes whole conversations."""
ANY_LENGTH = 1 << 30


class PromptEncoder:
    """Prompts as token ids, by the data path of training."""

    def __init__(self, tokenizer: Any) -> None:
        self.chat = has_template(tokenizer)
        self._row_tokenizer = RowTokenizer(tokenizer, ANY_LENGTH)

    def row(self, conversation: Conversation) -> Row:
        """The conversation as a row whose `prompt` ends with the generation prompt. Raises UserError if the chat
        template refuses it.
        """
        answer = {"role": "assistant", "content": ANSWER}
        messages = [*conversation.messages, answer] if conversation.messages else None
        example = Example(messages, conversation.prompt, ANSWER, "conversation", conversation.tools)
        (row,) = self.rows([example])
        if isinstance(row, Problem):
            raise UserError(row.what, row.where, "change the conversation", "chat.template_refused")
        return row

    def ids(self, conversation: Conversation) -> list[int]:
        """The prompt's token ids. Raises UserError for an empty prompt and where the chat template refuses it."""
        prompt = self.row(conversation).prompt
        if not prompt:
            raise UserError("empty prompt", "conversation", "enter a text", "chat.empty_prompt")
        return prompt

    def rows(self, examples: list[Example]) -> list[Row | Problem]:
        """Training or test rows, encoded with the same encoder."""
        return in_child(lambda: list(self._row_tokenizer.rows(examples)))


def prompt_of(example: Example) -> Conversation:
    """A row's conversation without the answer to its last prompt."""
    messages = (example.messages or [])[:-1]
    return Conversation(messages=messages, tools=example.tools, prompt=example.prompt)
