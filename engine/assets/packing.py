"""Turns the generated corpus into rows of token ids and says how much each token counts."""

import torch
from transformers import PreTrainedTokenizerFast

from engine.assets.corpus import documents
from engine.assets.make_tokenizer import END, START, as_text

ASIDE = 0.15  # weight of what is not an answer: prompts and loose text are mostly chance


def tokenizer_texts(seed: int) -> list[str]:
    """Chats as bare turns: the role marks are special tokens and need no merges."""
    texts: list[str] = []
    for document in documents(20_000, seed):
        texts += [document] if isinstance(document, str) else [turn["content"] for turn in document]
    return texts + ["system\nuser\nassistant\ntool\n"] * 200


def answer_weights(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> list[float]:
    """1 for the assistant's words and their end mark, little for the rest."""
    opening = tokenizer(f"{START}assistant\n", add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids(END)
    weights = [ASIDE] * len(ids)
    inside = False
    for at, token in enumerate(ids):
        if inside:
            weights[at] = 1.0
            inside = token != end
        elif token == opening[-1]:
            inside = ids[at + 1 - len(opening) : at + 1] == opening
    return weights


def packed_rows(
    tokenizer: PreTrainedTokenizerFast, count: int, length: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of whole documents, the last one cut, so that each row starts as a prompt would."""
    rows: list[torch.Tensor] = []
    weights: list[torch.Tensor] = []
    row: list[int] = []
    for document in documents(count * 16, seed):
        row += tokenizer(as_text(document, tokenizer), add_special_tokens=False)["input_ids"]
        if len(row) >= length:
            rows.append(torch.tensor(row[:length]))
            weights.append(torch.tensor(answer_weights(row[:length], tokenizer)))
            row = []
        if len(rows) == count:
            return torch.stack(rows), torch.stack(weights)
    raise ValueError(f"the corpus filled {len(rows)} of {count} rows")


def repeat_drill(step: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of one short random string of tokens over and over; only the repeats count.

    A small alphabet in every third step asks for more than the last token to find the place.
    """
    rng = torch.Generator().manual_seed(step)
    rows, weights = torch.zeros(48, 32, dtype=torch.long), torch.zeros(48, 32)
    alphabet = (vocabulary, 800, 200)[step % 3]
    for at, size in enumerate(torch.randint(3, 14, (48,), generator=rng).tolist()):
        string = torch.randint(4, alphabet, (size,), generator=rng)
        rows[at] = string.repeat(32 // size + 1)[:32]
        weights[at, size:] = 1.0
    return rows, weights
