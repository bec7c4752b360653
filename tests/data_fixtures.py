"""A byte-level tokenizer with a ChatML template, trained in the process, and tokenized examples, for tests of the data
package.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.data import parallel
from engine.data.rows import Example, Problem, Row
from engine.data.tokens import RowTokenizer

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}"
    "{% for call in message.tool_calls or [] %}{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}"
    "{% endfor %}"
    "{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "I am still waiting for my card. Which card do you mean? card_arrival lost_or_stolen_card",
    "What is 2 + 2? The answer is 4. Natalia sold clips to 48 of her friends in April.",
    "table: 1-1000181-1 columns: State, Text Q: Which notes? A: SELECT Notes FROM table WHERE State = 'SOUTH'",
] * 20


@functools.cache
def tokenizer(
    template: str | None = CHATML, specials: tuple[str, ...] = (), bos: str | None = None, eos: str = "<|im_end|>"
) -> Any:
    """A byte-level BPE tokenizer with 420 tokens; `bos` is added in front of plain text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    raw.train_from_iterator(CORPUS, trainer)
    names = dict.fromkeys([*([bos] if bos else []), eos, "<|im_start|>", "<|im_end|>", *specials])
    raw.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    if bos:
        raw.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, raw.token_to_id(bos))]
        )
    tokenizer_ = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=bos, eos_token=eos, pad_token=eos)
    tokenizer_.chat_template = template
    return tokenizer_


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def loss_texts(row: Any, tok: Any) -> list[str]:
    """The spans of a row that are in the loss, decoded."""
    spans: list[list[int]] = []
    previous = False
    for id_, label in zip(row.input_ids, row.labels, strict=True):
        if label != -100:
            if not previous:
                spans.append([])
            spans[-1].append(id_)
        previous = label != -100
    return [tok.decode(ids, skip_special_tokens=False) for ids in spans]


def prepare_without_children(patch: pytest.MonkeyPatch) -> None:
    """Prepare data in this process instead of a child process: the fork of a process that has imported torch takes ten
    times as long as a few rows.
    """
    patch.setattr(parallel, "_child", parallel._TemplateLimits(lambda name: None))


def tokenize(example: Example, tokenizer: Any, max_length: int) -> Row | Problem:
    """One tokenized example; a Problem if it has no token in the loss."""
    return tokenize_all([example], tokenizer, max_length)[0]


def tokenize_all(examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Row | Problem]:
    """Examples tokenized as the data package tokenizes them, in a child process."""
    return parallel.in_child(lambda: list(RowTokenizer(tokenizer, max_length).rows(examples)))
