"""Reasoning before answers: whether the chat template asks for it, and answers without it.

Templates such as Qwen3's let a model reason before it answers unless `enable_thinking` is false. Training answers
mostly have no reasoning. Such a template then renders an empty reasoning block before the answer, but its generation
prompt ends before the block: the base model would reason where the tuned one answers, and answers would start with the
block. With `enable_thinking = false` the block is the end of the generation prompt. The value is set inside the
template, so that the saved tokenizer, artifacts and servers have it too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NO_THINKING = "{%- if enable_thinking is not defined %}{%- set enable_thinking = false %}{%- endif %}"
_VARIABLE = re.compile(r"\benable_thinking\b")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Keys of messages that contain reasoning."""
REASONING_TAGS = ("<think>", "</think>")
"""What precedes and follows the reasoning of an answer in most templates."""


def with_thinking(template: str, enabled: bool) -> str:
    """The chat template with false as the default of `enable_thinking` unless `enabled`; others are not changed."""
    plain = template.removeprefix(NO_THINKING)
    return plain if enabled or not _VARIABLE.search(plain) else NO_THINKING + plain


def without_reasoning(answer: str, tags: Sequence[str] = REASONING_TAGS) -> str:
    """An answer without the reasoning before it; '' if the reasoning does not end."""
    _, end, rest = answer.rpartition(tags[1])
    if tags[0] in rest:
        return ""
    return rest.strip() if end else answer


def is_unfinished(answer: str, tags: Sequence[str], references: Sequence[str] = ()) -> bool:
    """Whether an answer ends within its reasoning: it does not close what it, or the generation prompt, opened.

    The generation prompt opened it if a reference closes it without opening it.
    """
    if tags[0] in answer.rpartition(tags[1])[2]:
        return True
    opened = any(tags[1] in reference and tags[0] not in reference for reference in references)
    return opened and tags[1] not in answer
