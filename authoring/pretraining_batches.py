"""Batches for pretraining: documents of similar length, and which of their tokens are targets."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from transformers import PreTrainedTokenizerFast

from authoring.corpus import COPYING_FIRST, KINDS, documents
from authoring.corpus_text import Turn
from authoring.make_tokenizer import STOP

TOKENS, LENGTH = 3072, 384
"""Tokens of a batch with padding, and the maximum length of a document, which is truncated."""
POOL = 1500
"""Documents that are sorted by length to form batches."""
PROMPT_SHARE = 0.2
"""Share of prompt tokens in the loss: most of a prompt is random, so learning to predict it is a waste."""


Mix = dict[str, int]
"""Shares of the kinds of documents."""


@dataclass(frozen=True)
class Batch:
    """Tokens `[rows, length]`, padded on the right, and whether the next token is a target `[rows, length - 1]`."""

    tokens: torch.Tensor
    kept: torch.Tensor


def encoded(document: str | list[Turn], tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Token ids and 1 for each token of an answer or of a plain document."""
    if isinstance(document, str):
        ids = tokenizer(document + STOP, add_special_tokens=False)["input_ids"]
        return ids[:LENGTH], [1] * len(ids[:LENGTH])
    encoded_document = tokenizer.apply_chat_template(document, return_dict=True, return_assistant_tokens_mask=True)
    return encoded_document["input_ids"][:LENGTH], encoded_document["assistant_masks"][:LENGTH]


def collate(rows: list[tuple[list[int], list[int]]], pad: int, rng: random.Random) -> Batch:
    length = max(len(ids) for ids, _ in rows)
    tokens = torch.full((len(rows), length), pad)
    kept = torch.zeros((len(rows), length - 1), dtype=torch.bool)
    for i, (ids, mask) in enumerate(rows):
        tokens[i, : len(ids)] = torch.tensor(ids)
        kept[i, : len(ids) - 1] = torch.tensor([bool(m) or rng.random() < PROMPT_SHARE for m in mask[1:]])
    return Batch(tokens, kept)


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, kinds: Mix = KINDS, copying_pools: int = 0
) -> Iterator[Batch]:
    """An endless stream; the first pools are mainly copying tasks.

    Each pool of documents is sorted by length, cut into batches and shuffled.
    """
    rng = random.Random(f"batches-{seed}")
    for pool in count():
        mix = COPYING_FIRST if pool < copying_pools else kinds
        rows = [encoded(d, tokenizer) for d in documents(POOL, rng.randrange(2**40), mix)]
        rows.sort(key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for row in rows:
            if (len(groups[-1]) + 1) * len(row[0]) > TOKENS:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            yield collate(group, tokenizer.pad_token_id, rng)
