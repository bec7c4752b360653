"""Chat templates that let a model reason before it answers unless `enable_thinking` is false, such as Qwen3's.

Training answers mostly have no reasoning. Such a template then renders an empty reasoning block before the answer, but
its generation prompt ends before the block: the base model would reason where the tuned one answers, and answers would
start with the block. With `enable_thinking = false` the block is the end of the generation prompt. The value is set
inside the template, so that the saved tokenizer, artifacts and servers have it too.
"""

from __future__ import annotations

import re

NO_THINKING = "{%- if enable_thinking is not defined %}{%- set enable_thinking = false %}{%- endif %}"
END_OF_REASONING = "</think>"
_VARIABLE = re.compile(r"\benable_thinking\b")


def with_thinking(template: str, enabled: bool) -> str:
    """The chat template with false as the default of `enable_thinking` unless `enabled`; others are not changed."""
    plain = template.removeprefix(NO_THINKING)
    return plain if enabled or not _VARIABLE.search(plain) else NO_THINKING + plain


def without_reasoning(answer: str) -> str:
    """An answer without the reasoning before it, which ends with `</think>`."""
    return answer.rpartition(END_OF_REASONING)[2].strip() if END_OF_REASONING in answer else answer
